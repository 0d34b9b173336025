"""Keeps the vectors of recent queries: in the process, and behind that in Valkey for all replicas.

A tenant finds only what it has asked itself, so nobody learns by the clock what another asks.
"""

import asyncio
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from hashlib import blake2b
from typing import TypeVar, cast

import msgspec
import numpy as np
from numpy.typing import NDArray
from redis.asyncio import Redis
from redis.exceptions import RedisError

from deployments.core.config import Settings
from deployments.core.derived import derive
from deployments.core.valkey import connect
from deployments.core.vault import Lock, Sealed

_logger = logging.getLogger("headrace.embedder")

PATIENCE_S = 0.05
"""How long Valkey may take; an embedding takes some milliseconds."""
REST_S = 5.0
"""How long Valkey is left alone after it did not answer."""

Result = TypeVar("Result")


class VectorCache:
    """A bounded map from tenant and text to vector; the least recently used goes first. Keys are digests, so no text is kept."""

    def __init__(self, capacity: int):
        self._seed = os.urandom(16)
        self._capacity = capacity
        self._vectors: OrderedDict[bytes, NDArray[np.float32]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._vectors)

    def get(self, tenant: str, text: str) -> NDArray[np.float32] | None:
        """The vector of a tenant's text, or None."""
        key = self._key(tenant, text)
        vector = self._vectors.get(key)
        if vector is not None:
            self._vectors.move_to_end(key)
        return vector

    def put(self, tenant: str, text: str, vector: NDArray[np.float32]) -> None:
        """Remember a vector of shape (dimensions,)."""
        self._vectors[self._key(tenant, text)] = vector
        while len(self._vectors) > self._capacity:
            self._vectors.popitem(last=False)

    def _key(self, tenant: str, text: str) -> bytes:
        return blake2b(_encoded(tenant, text), key=self._seed, digest_size=16).digest()


class SharedVectors:
    """Vectors in Valkey: each tenant has so many places, and a text one of them, which the last text to come takes.

    Names and places are digests, and vectors are sealed, under a key of the tenant's that is derived from `secret`. Whatever is wrong
    with Valkey is a miss, never an error.
    """

    def __init__(self, valkey: Redis, secret: bytes, revision: str, entries: int, ttl_s: int, clock: Callable[[], float] = time.monotonic):
        self._valkey, self._secret, self._revision = valkey, secret, revision
        self._entries, self._ttl_s, self._clock = entries, ttl_s, clock
        self._rests_until = 0.0

    async def get(self, tenant: str, texts: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """The vectors of those texts that are there."""
        lock = self._lock(tenant)
        names = [self._name(lock, text) for text in texts]
        blobs = await self._patiently(lambda: self._valkey.mget([self._place(tenant, name) for name in names]))
        found: dict[str, NDArray[np.float32]] = {}
        for text, name, blob in zip(texts, names, cast(list[bytes | None], blobs or [None] * len(names)), strict=True):
            if blob is not None and (vector := _opened(lock, name, blob)) is not None:
                found[text] = vector
        return found

    async def put(self, tenant: str, vectors: Mapping[str, NDArray[np.float32]]) -> None:
        """Keep vectors by their texts."""
        lock, pipe = self._lock(tenant), self._valkey.pipeline(transaction=False)
        for text, vector in vectors.items():
            name = self._name(lock, text)
            pipe.set(self._place(tenant, name), lock.seal(vector.astype("<f4").tobytes(), "vectors", name, "vector"), ex=self._ttl_s)
        await self._patiently(pipe.execute)

    async def close(self) -> None:
        """Close the connection."""
        await self._valkey.aclose()

    def _lock(self, tenant: str) -> Lock:
        return Lock(derive(self._secret, f"embedder cache {tenant}"), tenant)

    def _name(self, lock: Lock, text: str) -> str:
        return lock.mark(_encoded(self._revision, text))

    def _place(self, tenant: str, name: str) -> str:
        return f"hr:{{{tenant}}}:vector:{int(name[:16], 16) % self._entries}"

    async def _patiently(self, call: Callable[[], Awaitable[Result]]) -> Result | None:
        if self._clock() < self._rests_until:
            return None
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await call()
        except (RedisError, OSError, TimeoutError) as error:
            self._rests_until = self._clock() + REST_S
            _logger.warning("the shared cache is passed over for %g s: %s", REST_S, type(error).__name__)
            return None


def shared(settings: Settings) -> SharedVectors | None:
    """The cache in Valkey; None where none is wanted, or no Valkey is named."""
    section = settings.embedder
    if not section.shared_entries or settings.valkey_url is None:
        return None
    return SharedVectors(connect(settings.valkey), settings.root_bytes(), section.revision, section.shared_entries, section.shared_ttl_s)


def _opened(lock: Lock, name: str, blob: bytes) -> NDArray[np.float32] | None:
    """The vector; None where the place holds that of another text, or nothing that was sealed here."""
    try:
        return np.frombuffer(lock.open(blob, "vectors", name, "vector"), "<f4")
    except Sealed:
        return None


def _encoded(scope: str, text: str) -> bytes:
    return msgspec.msgpack.encode((scope, text.encode("utf-8", "surrogatepass")))
