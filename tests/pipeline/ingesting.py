"""A worker that only ingests, in a process of its own, until nothing is left; for tests that kill it.

Its arguments are the data folder and `real` or `fake`, which embedder to use. It prints a line when it begins.
"""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from deployments.core.config import Embedder, Settings, Worker
from deployments.core.jobs import INGEST
from deployments.core.ports import Embeds
from deployments.core.store import open_store
from deployments.core.types import Principal, Vectors
from deployments.embedder.batching import encode
from deployments.embedder.model import Encodes, load
from deployments.retriever.service import Retriever
from deployments.worker.work import Runner
from pipeline.jobs import Ingest
from tests.fakes import FakeEmbeds, means, until


class Encoding:
    """The real model, in a thread of this process, with batches as the embedder makes them."""

    def __init__(self, model: Encodes):
        self._model = model
        self._limit_tokens = Embedder().batch_tokens

    async def embed(self, texts: Sequence[str], caller: Principal | None = None) -> Vectors:
        return await asyncio.to_thread(encode, self._model, texts, self._limit_tokens)


def settings_in(folder: Path) -> Settings:
    """Settings of a worker whose leases end soon, so that the next one takes over, however often."""
    return Settings(data_dir=folder, worker=Worker(lease_s=1, poll_s=0.05, max_attempts=100))


async def work(settings: Settings, embeds: Embeds) -> None:
    """Ingest until nothing is left."""
    store = open_store(settings)
    runner = Runner(means(store), settings.worker, {INGEST: Ingest(settings, embeds, Retriever(settings))})
    running = asyncio.create_task(runner.run())
    sys.stdout.write("begun\n")
    sys.stdout.flush()
    await until(store.jobs.backlog, equals=0, within_s=3600, every_s=0.1)
    runner.stop()
    await running
    await store.close()


if __name__ == "__main__":
    of = settings_in(Path(sys.argv[1]))
    asyncio.run(work(of, Encoding(load(of)) if sys.argv[2] == "real" else FakeEmbeds()))
