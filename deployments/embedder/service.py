"""The embedder as a Serve deployment: queries are batched across requests, bulk work fills the gaps."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from ray import serve

from deployments.core.config import Settings
from deployments.core.types import Vectors
from deployments.embedder.cache import VectorCache
from deployments.embedder.model import load

QUERY_TEXTS = 4
"""A call of more texts than this is bulk."""
SLICE_CHARS = 1000
"""Characters encoded at once in bulk: about 250 tokens or 50 ms of one core, the longest a query shares it with bulk work."""
IDLE_WAIT_S = 0.05
"""How long a slice of bulk work lets queries go first; then it runs beside them, so that it ends under any load."""


class Embedder:
    """Implements Embeds on the far side of a handle."""

    def __init__(self, settings: Settings):
        self._encoder = load(settings)
        self._cache = VectorCache(settings.embedder.model, settings.embedder.cache_entries)
        self._bulk_turn = asyncio.Lock()
        self._idle = asyncio.Event()
        self._idle.set()
        batching = cast(Any, self._batch)  # the decorator's types do not know what it adds
        batching.set_max_batch_size(settings.embedder.max_batch)
        batching.set_batch_wait_timeout_s(settings.embedder.batch_wait_ms / 1000)

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors of shape (len(texts), dimensions), in the order of `texts`."""
        if not texts:
            return np.zeros((0, self._encoder.dimensions), np.float32)
        if len(texts) > QUERY_TEXTS:
            return await self._bulk(texts)
        return np.stack(await asyncio.gather(*(self._query(text) for text in texts)))

    async def ping(self) -> None:
        """Answer."""

    async def check_health(self) -> None:
        """Raises when the model no longer answers."""
        await asyncio.to_thread(self._encoder.encode, ["health"])

    async def _query(self, text: str) -> NDArray[np.float32]:
        vector = self._cache.get(text)
        if vector is None:
            vector = await self._batch(text)
            self._cache.put(text, vector)
        return vector

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.0)
    async def _batch(self, texts: list[str]) -> list[NDArray[np.float32]]:
        self._idle.clear()
        try:
            return list(await asyncio.to_thread(self._encoder.encode, texts))
        finally:
            self._idle.set()

    async def _bulk(self, texts: Sequence[str]) -> Vectors:
        vectors = np.empty((len(texts), self._encoder.dimensions), np.float32)
        for rows in slices(texts):
            async with self._bulk_turn:
                await self._yield_to_queries()
                vectors[rows] = await asyncio.to_thread(self._encoder.encode, [texts[row] for row in rows])
        return vectors

    async def _yield_to_queries(self) -> None:
        try:
            await asyncio.wait_for(self._idle.wait(), IDLE_WAIT_S)
        except TimeoutError:
            return


def slices(texts: Sequence[str]) -> Iterator[list[int]]:
    """The rows of `texts` in groups of at most SLICE_CHARS characters (or one text), alike in length so that little is padding."""
    group: list[int] = []
    for row in sorted(range(len(texts)), key=lambda row: len(texts[row])):
        if group and (len(group) + 1) * len(texts[row]) > SLICE_CHARS:
            yield group
            group = []
        group.append(row)
    if group:
        yield group
