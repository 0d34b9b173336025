"""`make bench-embedder`: how fast each backend embeds, side by side, and how well what it embeds is found.

The baseline is `SentenceTransformer.encode` on one thread. Backends take turns within a round, and a figure is the median of rounds:
the machine's speed changes from minute to minute, so ratios count, not seconds. CPU time is that of one core.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from deployments.core.config import Embedder, Settings
from deployments.core.types import Vectors
from deployments.embedder.batching import encode
from deployments.embedder.model import Encodes, load
from deployments.embedder.tokens import wheel
from pipeline.evaluate import collections
from pipeline.evaluate.collections import Collection
from pipeline.evaluate.embeddings import Embeddings
from pipeline.evaluate.measures import Ranking, gain, ndcg

SECTIONS = {"torch": Embedder(model=str(wheel())), "fp32": Embedder(precision="fp32"), "int8": Embedder(precision="int8")}
BASELINE = "torch"
TEXTS, QUESTIONS, DEPTH = 32, 16, 10


class Speed(msgspec.Struct, frozen=True):
    """One round of one backend: seconds of wall and of CPU for one question (the median of some), and CPU seconds of a batch of TEXTS."""

    question_s: float
    question_cpu_s: float
    texts_cpu_s: float


def rounds(encoders: Mapping[str, Callable[[Sequence[str]], Vectors]], texts: Sequence[str], questions: Sequence[str], repeat: int):
    """The speed of every backend in each of so many rounds, in which they take turns."""
    speeds: dict[str, list[Speed]] = {name: [] for name in encoders}
    for _ in range(repeat):
        for name, encoder in encoders.items():
            encoder(questions[:1])
            asked = [_timed(encoder, [question]) for question in questions]
            wall, cpu = (statistics.median(times) for times in zip(*asked, strict=True))
            speeds[name].append(Speed(wall, cpu, _timed(encoder, texts)[1]))
    return speeds


def rankings(collection: Collection, embeddings: Embeddings) -> dict[str, Ranking]:
    """The documents nearest to each question by their vectors alone."""
    documents = embeddings.of([f"{document.title}\n{document.text}" for document in collection.documents])
    cosines = embeddings.of([question.text for question in collection.questions.values()]) @ documents.T
    nearest = np.argsort(-cosines, axis=1)[:, :DEPTH]
    return {name: [collection.documents[place].id for place in places] for name, places in zip(collection.questions, nearest, strict=True)}


def deviation(encoder: Encodes, texts: Sequence[str], limit_tokens: int) -> float:
    """The most that the cosine of a text encoded alone and the same among others falls short of 1."""
    alone = np.concatenate([encoder.encode([text]) for text in texts])
    return float(1 - (alone * encode(encoder, texts, limit_tokens)).sum(axis=1).min())


def speed_table(speeds: Mapping[str, Sequence[Speed]]) -> Table:
    """Medians, and the ratio to the baseline of the same round, with the least and the most."""
    table = Table("backend", "question ms", "CPU ms", "of baseline", f"texts/s of CPU, {TEXTS} at once", "of baseline", box=None)
    for name, some in speeds.items():
        questions = [one.question_cpu_s / base.question_cpu_s for one, base in zip(some, speeds[BASELINE], strict=True)]
        texts = [base.texts_cpu_s / one.texts_cpu_s for one, base in zip(some, speeds[BASELINE], strict=True)]
        wall, cpu = (1000 * statistics.median(getattr(one, field) for one in some) for field in ("question_s", "question_cpu_s"))
        throughput = TEXTS / statistics.median(one.texts_cpu_s for one in some)
        table.add_row(name, f"{wall:.1f}", f"{cpu:.1f}", _spread(questions), f"{throughput:.1f}", _spread(texts))
    return table


def _timed(encoder: Callable[[Sequence[str]], Vectors], texts: Sequence[str]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    encoder(texts)
    return time.perf_counter() - wall, time.process_time() - cpu


def _spread(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def main() -> None:
    """Print the speeds, how far a vector depends on its batch, and nDCG@10."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="the folder of public data sets")
    parser.add_argument("--repeat", type=int, default=5, help="rounds")
    parser.add_argument("--cache", type=Path, default=Path("reports/retrieval"), help="where embeddings are kept for the next run")
    parser.add_argument("--quality", nargs="*", default=["fp32", "int8"], choices=list(SECTIONS), help="backends whose nDCG is measured")
    given = parser.parse_args()
    console, claims = Console(width=140), collections.scifact(given.data / "scifact")
    every = {name: Settings(data_dir=given.cache, embedder=section) for name, section in SECTIONS.items()}
    encoders = {name: load(settings) for name, settings in every.items()}
    tokens = Embedder().batch_tokens

    def batched(encoder: Encodes) -> Callable[[Sequence[str]], Vectors]:
        return lambda texts: encode(encoder, texts, tokens)

    calls = {name: encoder.encode if name == BASELINE else batched(encoder) for name, encoder in encoders.items()}
    texts = [f"{document.title}\n{document.text}" for document in claims.documents[:TEXTS]]
    questions = [question.text for question in list(claims.questions.values())[:QUESTIONS]]
    console.print(speed_table(rounds(calls, texts, questions, given.repeat)))
    for name in ("fp32", "int8"):
        console.print(f"{name}: 1 - cosine of a text alone and among others, at most {deviation(encoders[name], texts, tokens):.1e}")
    found = {
        name: rankings(claims, Embeddings(given.cache / "vectors", every[name].embedder.revision, encoders[name].encode))
        for name in given.quality
    }
    for name, ranked in found.items():
        score = sum(ndcg(ranking, claims.relevant[question]) for question, ranking in ranked.items()) / len(ranked)
        difference, low, high = gain(ranked, found[given.quality[0]], claims.relevant)
        over = f"{difference:+.4f} over {given.quality[0]}, 95 % of resamples {low:+.4f} to {high:+.4f}"
        console.print(f"{name}: nDCG@10 {score:.4f} on SciFact by vectors alone, N={len(ranked)}; {over}")


if __name__ == "__main__":
    main()
