"""The retriever as a Serve deployment."""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from deployments.core.config import Retriever as Limits
from deployments.core.config import Settings
from deployments.core.ports import Filed
from deployments.core.service import begin
from deployments.core.store import open_store
from deployments.core.timings import working
from deployments.core.types import Chunk, Passage, Principal, Query, Source, Vectors
from deployments.retriever.index import Index
from deployments.retriever.ranking import rank, reordered, select

if TYPE_CHECKING:
    from deployments.retriever.reranker import Reranker


class Retriever:
    """Implements Retrieves and Rebuilds on the far side of a handle.

    Rows carry a digest under a key derived from the root key: it has to prove that Lance returns what was written, which needs no key
    of a tenant's, nor SQL for a search. SQL is asked only where a table is damaged or missing.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time):
        begin("retriever", settings)
        self._settings = settings.retriever
        self._store = open_store(settings)
        self._index = Index(settings.index_dir, self._store.vault.derived("index rows"), self._repair, settings.retriever)
        self._clock = clock
        self._reranker = _reranker(settings.retriever)

    async def search(self, query: Query, trace: str = "") -> tuple[Passage, ...]:
        """The best passages, best first, deduplicated, within the query's budget; () where none is relevant; `trace` is who asks."""
        about = {"gen_ai.operation.name": "retrieval", "gen_ai.data_source.id": query.store_id, "gen_ai.request.top_k": query.limit}
        with working("search", f"retrieval {query.store_id}", trace, about) as mark:
            found = await self._search(query)
            mark.note({"headrace.passages": len(found)})
            return found

    async def _search(self, query: Query) -> tuple[Passage, ...]:
        if query.half_life_s is None:
            query = msgspec.structs.replace(query, half_life_s=self._settings.half_life_s)
        shelf = self._index.of(query.principal)
        depth = max(self._settings.candidates, query.limit)
        both = await shelf.search(query.store_id, query.text, query.vector, depth, query.filters)
        found = rank(query, *both, self._settings.min_similarity)
        if self._reranker:
            found = reordered(found, await self._reranker.scores(query.text, [hit for hit, _ in found]))
        return select(query, found, self._clock())

    async def replace(self, principal: Principal, store_id: str, source: Source, chunks: Sequence[Chunk], vectors: Vectors) -> None:
        """Make `chunks` the whole of that file in the store, at once; no chunks removes the file."""
        await self._index.of(principal).replace(store_id, source, chunks, vectors)

    async def extend(self, principal: Principal, store_id: str, files: Sequence[Filed]) -> None:
        """Add whole files that the store has nothing of, in one commit."""
        await self._index.of(principal).extend(store_id, files)

    async def begin(self, principal: Principal, store_id: str, build: str, dimensions: int) -> None:
        """Begin to build a table that takes the place of the store's; another one that is being built is given up."""
        await self._index.of(principal).begin(store_id, build, dimensions)

    async def add(self, principal: Principal, store_id: str, build: str, files: Sequence[Filed]) -> None:
        """Add files, or parts of them, to the table that is being built; raises Conflict where it has been given up."""
        await self._index.of(principal).add(store_id, build, files)

    async def end(self, principal: Principal, store_id: str, build: str) -> None:
        """Put the table that was built in force; raises Conflict where it has been given up."""
        await self._index.of(principal).end(store_id, build)

    async def drop(self, principal: Principal, store_id: str) -> None:
        """Remove the store's table with all its bytes."""
        await self._index.of(principal).drop(store_id)

    async def verify(self, principal: Principal, store_id: str) -> tuple[set[tuple[str, int]], int]:
        """The file and number of every row that is as it was written, and how many are not."""
        return await self._index.of(principal).verify(store_id)

    async def ping(self) -> None:
        """Answer."""

    async def close(self) -> None:
        """Wait for upkeep under way, and close the database."""
        await self._index.close()
        await self._store.close()

    async def _repair(self, principal: Principal, store_id: str) -> bool:
        return await self._store.of(principal).corpus.repair(store_id)


def _reranker(settings: Limits) -> "Reranker | None":
    """The configured model; torch is in memory only where there is one."""
    if settings.reranker is None:
        return None
    from deployments.retriever.reranker import Reranker

    return Reranker(settings.reranker, settings.rerank_candidates)
