"""Kept answers in Valkey: sealed, bounded in size, number and time; whatever is wrong with Valkey is a miss, never an error."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar, cast

import msgspec
import numpy as np
from redis.asyncio import Redis
from redis.exceptions import RedisError

from deployments.core.config import Settings
from deployments.core.types import Delta, Usage, Vector
from deployments.core.valkey import connect
from deployments.core.vault import Lock, Sealed

_logger = logging.getLogger("headrace.cache")

_CLOSEST = 3
"""Questions over the threshold whose answers are looked for, where those of closer ones are gone."""

Result = TypeVar("Result")

_encode = msgspec.msgpack.encode
_question = msgspec.msgpack.Decoder(tuple[str, bytes]).decode


class Kept(msgspec.Struct, frozen=True, array_like=True):
    """An answer as it was written, but for its end, and what it cost."""

    deltas: tuple[Delta, ...]
    usage: Usage


_kept = msgspec.msgpack.Decoder(Kept).decode


@dataclass(frozen=True)
class Place:
    """Where the answer to one question is kept: `name` stands for the question and all it depends on, `partition` for that without it.

    Both are keyed digests; `tenant` and `lock` are whose they are.
    """

    tenant: str
    lock: Lock
    partition: str
    name: str

    @property
    def index(self) -> str:
        """The key of the tenant's sorted set of what is kept, by the time it expires."""
        return f"hr:{{{self.tenant}}}:cache"

    @property
    def near(self) -> str:
        """The key of the list of questions that differ from this one in their words only."""
        return f"{self.index}:{self.partition}:near"

    def answer(self, name: str) -> str:
        """The key of an answer of this partition."""
        return f"{self.index}:{name}"


class Shelf:
    """The kept answers of all tenants; opens nothing until it is first used."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time):
        self._settings = settings
        self._limits = settings.cache
        self._clock = clock

    async def get(self, place: Place) -> Kept | None:
        """The answer to that very question."""
        return await self._patiently(lambda: self._get(place, place.name))

    async def closest(self, place: Place, vector: Vector, threshold: float) -> Kept | None:
        """The answer to the question of the partition that is closest, if its cosine is at least the threshold."""
        return await self._patiently(lambda: self._closest(place, vector, threshold))

    async def put(self, place: Place, kept: Kept, vector: Vector | None) -> None:
        """Keep an answer, if it is not too large; with its vector, close questions will find it."""
        sealed = place.lock.seal(_encode(kept), "cache", place.name, "answer")
        if len(sealed) <= self._limits.max_bytes:
            await self._patiently(lambda: self._put(place, sealed, vector))

    async def close(self) -> None:
        """Close the connection."""
        await self._valkey.aclose()

    @cached_property
    def _valkey(self) -> Redis:
        return connect(self._settings.valkey)

    async def _patiently(self, call: Callable[[], Awaitable[Result]]) -> Result | None:
        try:
            async with asyncio.timeout(self._limits.patience_s):
                return await call()
        except (RedisError, OSError, TimeoutError, Sealed, msgspec.DecodeError) as error:
            _logger.warning("the cache is passed over: %s", type(error).__name__)
            return None

    async def _get(self, place: Place, name: str) -> Kept | None:
        sealed = cast(bytes | None, await self._valkey.get(place.answer(name)))
        return _kept(place.lock.open(sealed, "cache", name, "answer")) if sealed else None

    async def _closest(self, place: Place, vector: Vector, threshold: float) -> Kept | None:
        kept = cast(list[bytes], await self._valkey.lrange(place.near, 0, -1))
        if not kept:
            return None
        names, vectors = zip(*(_question(place.lock.open(one, "cache", place.partition, "near")) for one in kept), strict=True)
        cosines = np.stack([np.frombuffer(one, "<f4") for one in vectors]) @ vector
        for number in np.argsort(-cosines)[:_CLOSEST]:
            if cosines[number] >= threshold and (known := await self._get(place, names[number])):
                return known
        return None

    async def _put(self, place: Place, sealed: bytes, vector: Vector | None) -> None:
        ttl, now = self._limits.ttl_s, self._clock()
        kept = {place.answer(place.name): now + ttl}
        pipe = self._valkey.pipeline(transaction=False)
        pipe.set(place.answer(place.name), sealed, ex=ttl)
        if vector is not None:
            question = _encode((place.name, vector.astype("<f4").tobytes()))
            pipe.lpush(place.near, place.lock.seal(question, "cache", place.partition, "near"))
            pipe.ltrim(place.near, 0, self._limits.max_vectors - 1)
            pipe.expire(place.near, ttl)
            kept[place.near] = now + ttl
        pipe.zadd(place.index, kept)
        pipe.expire(place.index, ttl)
        pipe.zremrangebyscore(place.index, "-inf", now)
        pipe.zcard(place.index)
        over = cast(int, (await pipe.execute())[-1]) - self._limits.max_entries
        if over > 0:
            oldest = cast(list[tuple[bytes, float]], await self._valkey.zpopmin(place.index, over))
            await self._valkey.delete(*(name for name, _ in oldest))
