"""How long a search takes in stores of different sizes, and what nearest neighbours from an index miss: `make bench-search`.

Passages are made of real ones: a sentence of SciFact's abstracts with two others, its vector the sentence's, moved towards the others'
and a little at random. Questions are SciFact's claims.
"""

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np
import psutil
from rich.console import Console
from rich.progress import track
from rich.table import Table

from deployments.core.config import Retriever as Section
from deployments.core.config import Settings
from deployments.core.filters import Combine, Compare, Filter
from deployments.core.types import Chunk, Principal, Source, Vectors
from deployments.embedder.model import load
from deployments.retriever.index import Index, Shelf

SIZES = (1_000, 10_000, 100_000)
SENTENCES, QUESTIONS, DEPTH, CONCURRENT = 4_000, 100, 30, 16
PER_FILE, BATCH = 50, 2_000
NOBODY = Principal("evaluation", "key", frozenset())
FILTER: Filter = Combine("and", (Compare("in", "year", (2001.0, 2002.0)), Compare("ne", "kind", "draft")))
"""Holds for one passage in twelve."""


class Material(msgspec.Struct, frozen=True):
    """Sentences and questions with their vectors."""

    sentences: list[str]
    vectors: Vectors
    questions: list[str]
    asked: Vectors


class Measured(msgspec.Struct, frozen=True):
    """One size: seconds of each search, recall@10 of the nearest against an exact scan, and memory."""

    rows: int
    alone: list[float]
    together: list[float]
    filtered: list[float]
    repeated: list[float]
    recall: float
    filtered_short: int
    build_s: float
    resident_bytes: int
    disk_bytes: int


def material(data: Path, settings: Settings) -> Material:
    """Sentences of SciFact, embedded; their vectors are kept for the next run."""
    abstracts = [json.loads(line)["text"] for line in (data / "scifact" / "corpus.jsonl").open()]
    sentences = [sentence for abstract in abstracts for sentence in abstract.split(". ") if 60 < len(sentence) < 300][::8][:SENTENCES]
    questions = [json.loads(line)["text"] for line in (data / "scifact" / "queries.jsonl").open()][:QUESTIONS]
    texts = sentences + questions
    file = settings.data_dir / "evaluation" / f"search {settings.embedder.revision}.f32"
    if not file.exists():
        encoder, batches = load(settings), track(range(0, len(texts), 16), "embedding", transient=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(np.concatenate([encoder.encode(texts[at : at + 16]) for at in batches]).tobytes())
    vectors = np.frombuffer(file.read_bytes(), np.float32).reshape(len(texts), -1)
    return Material(sentences, vectors[: len(sentences)], questions, vectors[len(sentences) :])


def grown(given: Material, rows: int) -> tuple[list[str], Vectors]:
    """So many passages with their vectors."""
    rng = np.random.default_rng(rows)
    picks = rng.integers(len(given.sentences), size=(rows, 3))
    picks[:, 0] = np.arange(rows) % len(given.sentences)
    vectors = given.vectors[picks[:, 0]] + 0.35 * (given.vectors[picks[:, 1]] + given.vectors[picks[:, 2]])
    vectors += rng.normal(scale=0.2 / np.sqrt(vectors.shape[1]), size=vectors.shape)
    vectors = vectors.astype(np.float32)
    return [". ".join(given.sentences[pick] for pick in row) for row in picks], vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@asynccontextmanager
async def filled(texts: Sequence[str], vectors: Vectors, settings: Section) -> AsyncIterator[tuple[Index, Shelf, float, Path]]:
    """An index with one store of those passages."""
    with TemporaryDirectory() as folder:
        index = Index(Path(folder), b"evaluation", _never, settings)
        shelf, begun = index.of(NOBODY), time.perf_counter()
        await shelf.begin("store", "build", vectors.shape[1])
        for at in track(range(0, len(texts), BATCH), f"{len(texts)} passages", transient=True):
            starts = range(at, min(at + BATCH, len(texts)), PER_FILE)
            await shelf.add("store", "build", [_file(start, texts[start : start + PER_FILE], vectors) for start in starts])
        await shelf.end("store", "build")
        yield index, shelf, time.perf_counter() - begun, Path(folder)
        await index.close()


async def measure(given: Material, rows: int, repeat: int, settings: Section) -> Measured:
    """All figures of one size; each question is asked `repeat` times."""
    texts, vectors = await asyncio.to_thread(grown, given, rows)
    async with filled(texts, vectors, settings.model_copy(update={"recall_bytes": 0})) as (index, shelf, build_s, folder):
        asked = list(zip(given.questions, given.asked, strict=True)) * repeat
        for text, vector in asked[:20]:
            await shelf.search("store", text, vector, DEPTH)
        alone = [await _timed(shelf, *one) for one in track(asked, "one at a time", transient=True)]
        together = await _together(shelf, asked)
        filtered = [await _timed(shelf, *one, FILTER) for one in track(asked[: len(given.questions)], "filtered", transient=True)]
        recall, short = await _recall(shelf, given, vectors)
        resident = psutil.Process().memory_info().rss
        index.recall.max_bytes = settings.recall_bytes or 1 << 25
        repeated = [await _timed(shelf, *asked[0]) for _ in range(50)][1:]
        disk = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return Measured(rows, alone, together, filtered, repeated, recall, short, build_s, resident, disk)


async def _together(shelf: Shelf, asked: Sequence[tuple[str, np.ndarray]]) -> list[float]:
    waiting, times = iter(asked), list[float]()

    async def ask() -> None:
        for one in waiting:
            times.append(await _timed(shelf, *one))

    await asyncio.gather(*(ask() for _ in range(CONCURRENT)))
    return times


async def _recall(shelf: Shelf, given: Material, vectors: Vectors) -> tuple[float, int]:
    """Recall@10 over the questions, and the number of filtered searches that found fewer passages than there are."""
    shares, short = list[float](), 0
    for text, vector in zip(given.questions, given.asked, strict=True):
        nearest, _ = await shelf.search("store", text, vector, DEPTH)
        exact = {int(number) for number in np.argsort(-(vectors @ vector))[:10]}
        shares.append(len(exact & {hit.chunk.number for hit in nearest[:10]}) / 10)
        narrowed, _ = await shelf.search("store", text, vector, DEPTH, FILTER)
        short += len(narrowed) < DEPTH
    return statistics.mean(shares), short


async def _timed(shelf: Shelf, text: str, vector: np.ndarray, condition: Filter | None = None) -> float:
    begun = time.perf_counter()
    await shelf.search("store", text, vector, DEPTH, condition)
    return time.perf_counter() - begun


def _file(start: int, texts: Sequence[str], vectors: Vectors) -> tuple[Source, list[Chunk], Vectors]:
    chunks = [
        Chunk(start + n, text, ("Abstract",), 0, len(text), len(text) // 5, {"year": 2000.0 + (start + n) % 24, "part": float(n)})
        for n, text in enumerate(texts)
    ]
    return Source(f"file-{start}", f"{start}.md", "", {"kind": "paper"}, 0), chunks, vectors[start : start + len(texts)]


async def _never(principal: Principal, store_id: str) -> bool:
    return False


def _row(one: Measured) -> list[str]:
    def quantiles(times: list[float]) -> str:
        return f"{1000 * statistics.median(times):.1f} / {1000 * statistics.quantiles(times, n=20)[-1]:.1f}"

    times = [quantiles(times) for times in (one.alone, one.together, one.filtered, one.repeated)]
    sizes = [f"{one.resident_bytes >> 20}", f"{one.disk_bytes >> 20}"]
    return [f"{one.rows:,}", *times, f"{one.recall:.3f}", str(one.filtered_short), *sizes, f"{one.build_s:.1f}"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder of the public data sets")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--repeat", type=int, default=3, help="how often each of 100 questions is asked")
    parser.add_argument("--indexed-rows", type=int, default=Section().indexed_rows)
    given = parser.parse_args()
    made = material(given.data, Settings())
    settings = Section(indexed_rows=given.indexed_rows)
    table = Table(title="search in ms, p50 / p95", box=None)
    names = (
        "passages",
        "alone",
        f"{CONCURRENT} at once",
        "filtered",
        "asked again",
        "recall@10",
        "short",
        "RSS MB",
        "disk MB",
        "built in s",
    )
    for name in names:
        table.add_column(name, justify="right")
    for size in given.sizes:
        table.add_row(*_row(asyncio.run(measure(made, size, given.repeat, settings))))
    Console().print(table)


if __name__ == "__main__":
    main()
