"""Trains the router's complexity score and measures it on subjects and questions it has not seen: `make train-router`.

The target is what a large model gains: for RouteLLM's prompts whether it is right less whether a small one is (-1, 0, 1), for Anyscale's
questions whether an open model's answer was not good enough. Figures are out of fold; a ridge regression gives them without training anew.
"""

import argparse
import json
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from deployments.core.config import Settings
from deployments.core.types import Vectors
from deployments.embedder.model import load
from deployments.router.score import SEED, WEIGHTS, Complexity, Features, Floats, grams, outlines, surface

PENALTY = 2.0
"""Of the ridge: the variance of the noise over that of the kernel."""
AXES = 6
"""Directions of most variance that an outline keeps of an embedding; with many more, subjects are learnt by heart."""
FOLDS = 5
KNOTS = 101
BATCH = 16
_LEAST_SCALE = np.float32(1e-3)

Doubles = NDArray[np.float64]
Places = NDArray[np.intp]


class Examples(msgspec.Struct, frozen=True):
    """One set: its texts, what a large model gains on each, and the folds, as places of the texts held out together."""

    name: str
    texts: list[str]
    gains: Doubles
    folds: list[Places]


def subjects(data: Path) -> Examples:
    """RouteLLM's prompts; a fold is a subject."""
    rows = [json.loads(line) for line in (data / "routing_routellm" / "small_vs_large.jsonl").open()]
    gains = np.array([float(row["large_ok"]) - float(row["small_ok"]) for row in rows])
    named = np.array([row["domain"] for row in rows])
    return Examples("routing_routellm", [row["prompt"] for row in rows], gains, [np.flatnonzero(named == one) for one in np.unique(named)])


def questions(data: Path) -> Examples:
    """Anyscale's questions in five folds; the same question twice is in one of them."""
    rows = [json.loads(line) for line in (data / "routing_anyscale" / "train.jsonl").open()]
    texts = [row["question"] for row in rows]
    different = list(dict.fromkeys(texts))
    fold = dict(zip(different, np.random.RandomState(SEED).permutation(len(different)) % FOLDS, strict=True))
    folds = np.array([fold[text] for text in texts])
    gains = np.array([1.0 - row["target"] for row in rows])
    return Examples("routing_anyscale", texts, gains, [np.flatnonzero(folds == one) for one in range(FOLDS)])


def embedded(texts: Sequence[str], settings: Settings) -> Vectors:
    """Their vectors, which are kept for the next run."""
    file = settings.data_dir / "evaluation" / f"routing {settings.embedder.revision}.f32"
    if not file.exists():
        encoder, order = load(settings), sorted(range(len(texts)), key=lambda place: len(texts[place]))
        vectors = np.zeros((len(texts), encoder.dimensions), np.float32)
        for at in track(range(0, len(texts), BATCH), "embedding", transient=True):
            places = order[at : at + BATCH]
            vectors[places] = encoder.encode([texts[place] for place in places])
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(vectors.tobytes())
    return np.frombuffer(file.read_bytes(), np.float32).reshape(len(texts), -1)


def apgr(scores: Doubles, gains: Doubles) -> float:
    """Average performance gap recovered (RouteLLM, arXiv 2406.18665) over all shares of prompts sent to the large model."""
    recovered = np.cumsum(gains[np.argsort(-scores, kind="stable")]) / gains.sum()
    return float(np.trapezoid(np.concatenate([[0.0], recovered]), dx=1 / len(gains)))


def auc(scores: Doubles, gains: Doubles) -> float:
    """How often a question with a gain has a higher score than one without; ties count half."""
    with_gain, without = scores[gains > 0], np.sort(scores[gains <= 0])
    below = np.searchsorted(without, with_gain, "left") + np.searchsorted(without, with_gain, "right")
    return float(below.sum() / (2 * len(with_gain) * len(without)))


def ridge(rows: Floats, gains: Doubles, folds: Sequence[Places], penalty: float = PENALTY) -> tuple[Doubles, Doubles]:
    """The slopes, and what slopes trained without a row's fold say of it, exactly (Cook and Weisberg 1982, for groups)."""
    inverse = np.linalg.inv((rows @ rows.T).astype(np.float64) + penalty * np.eye(len(rows)))
    weights = inverse @ gains
    unseen = np.zeros(len(rows))
    for fold in folds:
        unseen[fold] = gains[fold] - np.linalg.solve(inverse[np.ix_(fold, fold)], weights[fold])
    return rows.T @ weights, unseen


def train(sets: Sequence[Examples], vectors: Vectors, today: str) -> tuple[dict[str, NDArray], dict[str, object]]:
    """The weights and their record."""
    texts = [text for one in sets for text in one.texts]
    surfaces, counts = (np.stack([look(text) for text in texts]) for look in (surface, grams))
    rarity = np.log((1 + len(texts)) / (1 + (counts > 0).sum(axis=0))) + 1
    axes = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)[2][:AXES].astype(np.float16)
    seen = outlines(surfaces, vectors, axes.astype(np.float32))
    weights: dict[str, NDArray] = {
        "axes": axes,
        "mean": seen.mean(axis=0),
        "scale": np.maximum(seen.std(axis=0), _LEAST_SCALE),
        "rarity": rarity.astype(np.float16),
    }
    rows = Features(**{name: weight.astype(np.float32) for name, weight in weights.items()}).of(surfaces, counts, vectors)
    gains = np.concatenate([one.gains - one.gains.mean() for one in sets])
    starts = np.cumsum([0, *(len(one.texts) for one in sets)])
    folds = [start + fold for start, one in zip(starts, sets, strict=False) for fold in one.folds]
    slopes, unseen = ridge(rows, gains, folds)
    weights["slopes"] = slopes.astype(np.float16)
    weights["knots"] = np.quantile(unseen, np.linspace(0, 1, KNOTS)).astype(np.float32)
    prompts, asked = np.split(unseen, starts[1:-1])
    lengths = [np.array([float(len(text)) for text in one.texts]) for one in sets]
    middle = weights["knots"][KNOTS // 2]
    return weights, {
        "date": today,
        "sets": {one.name: {"texts": len(one.texts), "folds": len(one.folds)} for one in sets},
        "seed": SEED,
        "penalty": PENALTY,
        "apgr": round(apgr(prompts, sets[0].gains), 4),
        "apgr_of_length": round(apgr(lengths[0], sets[0].gains), 4),
        "auc": round(auc(asked, sets[1].gains), 4),
        "auc_of_length": round(auc(lengths[1], sets[1].gains), 4),
        "small_at_half": {one.name: round(float((part < middle).mean()), 3) for one, part in zip(sets, (prompts, asked), strict=True)},
    }


def took(weights: dict[str, NDArray], texts: Sequence[str], vectors: Vectors) -> list[float]:
    """Seconds of each decision."""
    complexity, times = Complexity(weights), list[float]()
    for text, vector in zip(texts, vectors, strict=True):
        begun = time.perf_counter()
        complexity.score(text, vector)
        times.append(time.perf_counter() - begun)
    return times


def main() -> None:
    """Train, print the figures, and write the weights and their record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder of the public data sets")
    parser.add_argument("--date", default=date.today().isoformat(), help="the date of the record")
    given = parser.parse_args()
    sets = (subjects(given.data), questions(given.data))
    texts = [text for one in sets for text in one.texts]
    vectors = embedded(texts, Settings())
    weights, record = train(sets, vectors, given.date)
    np.savez(WEIGHTS, allow_pickle=False, **weights)
    WEIGHTS.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")
    median, late = np.quantile(took(weights, texts, vectors), (0.5, 0.99))
    table = Table(title="the router's complexity score", box=None)
    table.add_column("figure")
    table.add_column("result", justify="right")
    for name, value in (*record.items(), ("one decision, p50 / p99", f"{1000 * median:.2f} / {1000 * late:.2f} ms")):
        table.add_row(name, str(value))
    Console().print(table)


if __name__ == "__main__":
    main()
