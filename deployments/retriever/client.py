"""The retriever on the near side of its handle."""

from collections.abc import Sequence
from dataclasses import dataclass

from ray.serve.handle import DeploymentHandle

from deployments.core.client import call
from deployments.core.ports import Filed
from deployments.core.spans import here
from deployments.core.types import Chunk, Passage, Principal, Query, Source, Vectors


@dataclass(frozen=True)
class RetrieverClient:
    """Implements Retrieves and Rebuilds over a deployment handle."""

    handle: DeploymentHandle
    name: str = "retriever"

    async def search(self, query: Query) -> tuple[Passage, ...]:
        """The best passages, best first, deduplicated, within the query's budget; () where none is relevant."""
        return await call(self.handle.search.remote(query, here()))

    async def replace(self, principal: Principal, store_id: str, source: Source, chunks: Sequence[Chunk], vectors: Vectors) -> None:
        """Make `chunks` the whole of that file in the store, at once; no chunks removes the file."""
        # By reference: a large file is over the 4 MiB of a gRPC message, and it must arrive in one piece.
        handle = self.handle.options(_by_reference=True)
        await call(handle.replace.remote(principal, store_id, source, tuple(chunks), vectors))

    async def begin(self, principal: Principal, store_id: str, build: str, dimensions: int) -> None:
        """Begin a build of that name; another one is given up."""
        await call(self.handle.begin.remote(principal, store_id, build, dimensions))

    async def add(self, principal: Principal, store_id: str, build: str, files: Sequence[Filed]) -> None:
        """Add files to the build; raises Conflict where it has been given up."""
        handle = self.handle.options(_by_reference=True)
        await call(handle.add.remote(principal, store_id, build, tuple(files)))

    async def end(self, principal: Principal, store_id: str, build: str) -> None:
        """Put the build in force; raises Conflict where it has been given up."""
        await call(self.handle.end.remote(principal, store_id, build))

    async def drop(self, principal: Principal, store_id: str) -> None:
        """Remove the store's index with all its bytes."""
        await call(self.handle.drop.remote(principal, store_id))

    async def ping(self) -> None:
        """Return once a replica has answered."""
        await call(self.handle.ping.remote())
