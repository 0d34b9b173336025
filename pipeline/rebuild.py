"""Building the index of a vector store anew from SQL: a job of the worker, and a command."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from deployments.core.config import Settings
from deployments.core.jobs import Job
from deployments.core.ports import Filed, Rebuilds
from deployments.core.store import Store
from deployments.core.types import Principal
from deployments.worker.work import Means, Reason

ROWS = 1024
"""Passages handed over at once: some megabytes, and while the index takes them nothing else is written to it."""


async def rebuild(
    store: Store, rebuilds: Rebuilds, principal: Principal, store_id: str, build: str, advance: Callable[[int], object] = lambda _: None
) -> int:
    """Build a store's index from what SQL holds, and put it in force; returns the number of passages.

    Searches go on in the index there was. `build` names this attempt; `advance` is told of passages as they are done. Raises Conflict
    where another attempt has begun.
    """
    done, waiting = 0, list[Filed]()
    async for page in store.of(principal).corpus.files(store_id):
        for filed in page:
            if not done and not waiting:
                await rebuilds.begin(principal, store_id, build, filed[2].shape[1])
            waiting += _pieces(filed)
            if sum(len(chunks) for _, chunks, _ in waiting) >= ROWS:
                done += await _hand_over(rebuilds, principal, store_id, build, waiting, advance)
    done += await _hand_over(rebuilds, principal, store_id, build, waiting, advance)
    if done:
        await rebuilds.end(principal, store_id, build)
    else:
        await rebuilds.drop(principal, store_id)
    return done


@dataclass(frozen=True)
class Rebuild:
    """Builds the index of a store anew; implements the worker's `Handles`. Its subject is the store."""

    settings: Settings
    rebuilds: Rebuilds
    at_once: int = 1

    @property
    def lease_s(self) -> float:
        """As long as a file may take; the lease is kept alive."""
        return self.settings.worker.lease_s

    async def run(self, means: Means, job: Job) -> None:
        """Rebuild, then note the change, so that answers kept from the damaged index are not given again."""
        await rebuild(means.store, self.rebuilds, job.principal, job.subject, f"{job.id} {job.fence}")
        async with means.store.jobs.finishing(job) as session:
            await means.store.of(job.principal).corpus.advance(session, [job.subject])

    async def give_up(self, means: Means, job: Job, code: Reason, message: str) -> None:
        """The next search that finds the index damaged asks again."""
        async with means.store.jobs.finishing(job, "failed", code):
            pass

    async def lost(self, means: Means, job: Job) -> None:
        """What was begun is given up by the next build."""


async def _hand_over(
    rebuilds: Rebuilds, principal: Principal, store_id: str, build: str, files: list[Filed], advance: Callable[[int], object]
) -> int:
    count = sum(len(chunks) for _, chunks, _ in files)
    if count:
        await rebuilds.add(principal, store_id, build, tuple(files))
        advance(count)
    files.clear()
    return count


def _pieces(filed: Filed) -> list[Filed]:
    """A file in pieces that may be handed over."""
    source, chunks, vectors = filed
    return [(source, chunks[at : at + ROWS], np.ascontiguousarray(vectors[at : at + ROWS])) for at in range(0, len(chunks), ROWS)]
