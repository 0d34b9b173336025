"""`make bench-bulk`: how much of the embedder's own throughput is left when a folder is ingested by Ray Data.

Files are SciFact's abstracts, over and over with other titles, until there are so many passages. The embedder alone encodes a sample of
the very passages before and after, on one thread of this process; per second of CPU the machine's other work counts least.
"""

import argparse
import asyncio
import os
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.progress import Progress

from deployments.core.config import Settings
from deployments.core.keys import Keys
from deployments.core.schema import migrate
from deployments.core.store import Store, open_store
from deployments.core.types import Principal
from deployments.embedder.batching import encode
from deployments.embedder.model import load
from deployments.retriever.chunk import embedded_text
from deployments.retriever.service import Retriever
from pipeline.bulk import FILES, Bulk, Report, running
from pipeline.cli.ingest import find
from pipeline.evaluate import collections

SAMPLE = 200
PER_FILE = 20
"""Abstracts in one file, under a heading each."""
WHO = Principal("bench", "cli", frozenset())


def write(data: Path, folder: Path, abstracts: int) -> None:
    """Files with so many abstracts."""
    documents = collections.scifact(data / "scifact").documents
    for number in range(0, abstracts, PER_FILE):
        some = [documents[place % len(documents)] for place in range(number, min(number + PER_FILE, abstracts))]
        parts = [f"## {one.title} {number}\n\n{one.text}" for one in some]
        (folder / f"{number:07}.md").write_text(f"# Abstracts {number}\n\n" + "\n\n".join(parts))


async def ingested(settings: Settings, store: Store, folder: Path, cores: int) -> tuple[Report, list[str]]:
    """Ingest the folder into a new store; returns the report, and passages of it as they were embedded."""
    mine, retriever = store.of(WHO), Retriever(settings)
    store_id = (await mine.add_store("bench")).id
    with running(cores), Progress(transient=True) as progress:
        bar = progress.add_task("files", total=None)
        bulk = Bulk(settings, store, retriever, WHO, store_id)
        documents = find([folder], settings.gateway.max_upload_bytes).documents
        report = await bulk.run(documents, cores, lambda done, total: progress.update(bar, completed=done, total=total))
    assert await mine.corpus.size(store_id) == report.passages  # noqa: S101 — the figure is of what is there
    await retriever.close()
    filed = [one async for page in mine.corpus.files(store_id) for one in page]
    texts = [embedded_text(source.title, chunk) for source, chunks, _ in filed for chunk in chunks]
    return report, list(islice(texts, 0, None, max(1, len(texts) // SAMPLE)))


def alone(settings: Settings, texts: Sequence[str]) -> tuple[float, float]:
    """Passages a second of CPU and of wall, of one thread that does nothing else."""
    encoder = load(settings)
    wall, cpu = time.perf_counter(), time.process_time()
    encode(encoder, texts, settings.embedder.batch_tokens)
    return len(texts) / (time.process_time() - cpu), len(texts) / (time.perf_counter() - wall)


async def measure(data: Path, abstracts: int, cores: int) -> str:
    """One run, told in a few lines."""
    with TemporaryDirectory() as temporary:
        folder, settings = Path(temporary) / "docs", Settings(data_dir=Path(temporary) / "state")
        folder.mkdir()
        settings.data_dir.mkdir()
        write(data, folder, abstracts)
        await migrate(settings.database_url)
        store = open_store(settings)
        await Keys(store, settings.pepper_bytes()).add_tenant("Bench", WHO.tenant)
        load(settings)  # the model's file is there before anybody is timed
        report, sample = await ingested(settings, store, folder, cores)
        cpu, wall = alone(settings, sample)
        await store.close()
    bulk_cpu, bulk_wall = report.passages / report.embedding_cpu_s, report.passages / report.embedding_s
    return (
        f"{report.passages} passages of {sum(report.counts.values())} files, {FILES} files a batch, {cores} embedders\n"
        f"a second of CPU: {bulk_cpu:.1f} in bulk, {cpu:.1f} alone: {bulk_cpu / cpu:.2f}\n"
        f"a second of wall, start of Ray Data included: {bulk_wall:.1f} in bulk, {wall:.1f} alone on one thread: {bulk_wall / wall:.2f}"
    )


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="the folder of public data sets")
    parser.add_argument("--abstracts", type=int, default=35_000, help="abstracts to ingest, about 1.5 passages each")
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    given = parser.parse_args()
    Console().print(asyncio.run(measure(given.data, given.abstracts, given.cores)))


if __name__ == "__main__":
    main()
