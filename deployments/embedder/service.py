"""The embedder as a Serve deployment: queries are batched across requests, bulk work fills the gaps."""

import asyncio
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from deployments.core.config import Settings
from deployments.core.service import begin
from deployments.core.telemetry import CACHE_LOOKUPS
from deployments.core.timings import working
from deployments.core.types import Principal, Vectors
from deployments.embedder.batching import Batcher
from deployments.embedder.cache import VectorCache, shared
from deployments.embedder.model import load

QUERY_TEXTS = 4
"""A call of more texts than this is bulk. It passes the caches by: SQL keeps what is ingested."""


class Embedder:
    """Implements Embeds on the far side of a handle."""

    def __init__(self, settings: Settings):
        begin("embedder", settings)
        self._model = settings.embedder.model
        self._encoder = load(settings)
        self._batcher = Batcher(self._encoder, settings.embedder.batch_tokens)
        self._cache = VectorCache(settings.embedder.cache_entries)
        self._shared = shared(settings)
        self._sharing: set[asyncio.Task[None]] = set()

    async def embed(self, texts: Sequence[str], caller: Principal | None = None, trace: str = "") -> Vectors:
        """Vectors of shape (len(texts), dimensions), in the order of `texts`; what the caller's tenant has asked before is kept.

        `trace` is the caller's span.
        """
        if not texts:
            return np.zeros((0, self._encoder.dimensions), np.float32)
        if len(texts) > QUERY_TEXTS or caller is None:
            return await self._batcher.encode(texts, bulk=len(texts) > QUERY_TEXTS)
        normal = [text.strip() for text in texts]
        about = {"gen_ai.operation.name": "embeddings", "gen_ai.request.model": self._model}
        with working("embed", f"embeddings {self._model}", trace, about):
            vectors = await self._vectors(caller.tenant, list(dict.fromkeys(normal)))
        return np.stack([vectors[text] for text in normal])

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What Serve hears every second, and the policy decides by."""
        return dict(self._batcher.load)

    async def ping(self) -> None:
        """Answer."""

    async def check_health(self) -> None:
        """Raises when the model no longer answers."""
        await self._batcher.encode(["health"], bulk=False)

    async def close(self) -> None:
        """Finish what is on its way to Valkey, and close the connection."""
        await asyncio.gather(*self._sharing)
        if self._shared:
            await self._shared.close()

    async def _vectors(self, tenant: str, texts: Sequence[str]) -> Mapping[str, NDArray[np.float32]]:
        """The vectors of different texts, from the nearest place that has them."""
        found = {text: vector for text in texts if (vector := self._cache.get(tenant, text)) is not None}
        _count("embedding", len(found), len(texts))
        if (unknown := [text for text in texts if text not in found]) and self._shared:
            kept = await self._shared.get(tenant, unknown)
            _count("shared_embedding", len(kept), len(unknown))
            self._remember(tenant, kept)
            found |= kept
            unknown = [text for text in unknown if text not in kept]
        if unknown:
            made = dict(zip(unknown, await self._batcher.encode(unknown, bulk=False), strict=True))
            self._remember(tenant, made)
            self._share(tenant, made)
            found |= made
        return found

    def _remember(self, tenant: str, vectors: Mapping[str, NDArray[np.float32]]) -> None:
        for text, vector in vectors.items():
            self._cache.put(tenant, text, vector)

    def _share(self, tenant: str, vectors: Mapping[str, NDArray[np.float32]]) -> None:
        """Keep vectors for the other replicas; nobody waits for that."""
        if self._shared:
            sharing = asyncio.create_task(self._shared.put(tenant, vectors))
            self._sharing.add(sharing)
            sharing.add_done_callback(self._sharing.discard)


def _count(cache: str, hits: int, looks: int) -> None:
    CACHE_LOOKUPS.add(cache, "hit", by=hits)
    CACHE_LOOKUPS.add(cache, "miss", by=looks - hits)
