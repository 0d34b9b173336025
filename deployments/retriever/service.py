"""The retriever as a Serve deployment."""

from collections.abc import Sequence

from deployments.core.config import Settings
from deployments.core.types import Chunk, Passage, Principal, Query, Source, Vectors
from deployments.retriever.index import Index
from deployments.retriever.search import select


class Retriever:
    """Implements Retrieves on the far side of a handle."""

    def __init__(self, settings: Settings):
        self._settings = settings.retriever
        self._index = Index(settings.index_dir, settings.retriever.open_tables)

    async def search(self, query: Query) -> tuple[Passage, ...]:
        """The best passages, best first, deduplicated, within the query's budget; () where none is relevant."""
        shelf = self._index.of(query.principal)
        nearest, matching = await shelf.search(query.store_id, query.text, query.vector, self._settings.candidates)
        return select(
            query.text,
            nearest,
            matching,
            limit=query.limit,
            budget_tokens=query.budget_tokens,
            min_similarity=self._settings.min_similarity,
        )

    async def replace(self, principal: Principal, store_id: str, source: Source, chunks: Sequence[Chunk], vectors: Vectors) -> None:
        """Make `chunks` the whole of that file in the store, at once; no chunks removes the file."""
        await self._index.of(principal).replace(store_id, source, chunks, vectors)

    async def drop(self, principal: Principal, store_id: str) -> None:
        """Forget everything of a store, which need not be there."""
        await self._index.of(principal).drop(store_id)

    async def ping(self) -> None:
        """Answer."""
