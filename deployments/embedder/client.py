"""The embedder on the near side of its handle."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ray.serve.handle import DeploymentHandle

from deployments.core.client import call
from deployments.core.spans import here
from deployments.core.types import Principal, Vectors

CALL_TEXTS = 64
"""Texts in one call: a handle message stays far under Serve's 4 MiB, and a long job spreads over the replicas."""
CALLS = 2
"""Calls of one bulk job under way at once."""


@dataclass(frozen=True)
class EmbedderClient:
    """Implements Embeds over a deployment handle."""

    handle: DeploymentHandle
    name: str = "embedder"

    async def embed(self, texts: Sequence[str], caller: Principal | None = None) -> Vectors:
        """Vectors of shape (len(texts), dimensions), in the order of `texts`; long lists travel in several calls."""
        if len(texts) <= CALL_TEXTS:
            return await call(self.handle.embed.remote(list(texts), caller, here()))
        turn = asyncio.Semaphore(CALLS)

        async def part(first: int) -> Vectors:
            async with turn:
                return await call(self.handle.embed.remote(list(texts[first : first + CALL_TEXTS]), caller, here()))

        return np.concatenate(await asyncio.gather(*(part(first) for first in range(0, len(texts), CALL_TEXTS))))

    async def ping(self) -> None:
        """Return once a replica has answered."""
        await call(self.handle.ping.remote())
