"""The sending side of the response log: flushes what all writers of a process have, once a tick, in one pipeline."""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Protocol, cast

import msgspec
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import RedisError, ResponseError

from deployments.core import config
from deployments.core.errors import Overloaded, StreamInterrupted
from deployments.core.log import Batch, Entries, Writer, encode, fenced, read, seize, shared_channel, stream_key
from deployments.core.types import Delta, LogRef

_logger = logging.getLogger("headrace.outbox")

RETRY_S = 0.05
"""Pause before deltas that could not be delivered are sent again."""

REPLY_S = 5.0
"""Within this time Valkey answers a flush, or it counts as away."""

_STREAMS_PER_TICK = 25
"""Open answers that one base tick serves; with more the tick grows in proportion, so the cost of flushing stays flat.

Measured at 100 open answers on two cores, as tokens/s of what the backend offers and CPU-ms per 1,000 tokens: a tick of 15 ms 96.2 %
and 249, 20 ms 94.9 % and 214, 25 ms 94.2 % and 206, 40 ms 92.6 % and 176. The base tick (`log.tick_ms`) moves them all.
"""


class Delivers(Protocol):
    """Followers in this process, which need no Valkey to be reached."""

    channel: str

    def deliver(self, batch: Batch) -> None:
        """Hand a batch to the follower of its response."""
        ...


class Outbox:
    """Flushes the deltas of all writers of a process; one task, which ends when there is nothing to send."""

    def __init__(self, valkey: Redis, settings: config.Log, local: Delivers | None = None, clock: Callable[[], float] = time.time):
        self.writers: set[Writer] = set()
        self._clock = clock
        self._valkey = valkey
        self._settings = settings
        self._local = local
        self._dirty: dict[Writer, None] = {}
        self._urgent: dict[Writer, None] = {}
        self._in_flight: list[Writer] = []
        self._pump: asyncio.Task[None] | None = None
        self._alarm: asyncio.Future[None] | None = None
        self._flushed = asyncio.Event()
        self._beat = asyncio.Event()
        self._awaited = False
        self._due = 0.0
        self._stalled_since: float | None = None

    def writer(self, ref: LogRef) -> Writer:
        """A writer that goes on at `ref`; use it as a context manager."""
        return Writer(ref, self)

    def now(self) -> int:
        """The time in Unix seconds."""
        return int(self._clock())

    def changed(self, writer: Writer, urgent: bool) -> None:
        """Note that a writer has something to send; raises what broke its log."""
        if writer.broken:
            raise writer.broken
        self._dirty[writer] = None
        if urgent:
            self._urgent[writer] = None
            if self._alarm and not self._alarm.done():
                self._alarm.set_result(None)
        self._ensure()

    def announce(self, writer: Writer) -> None:
        """Have followers in this process drop, from now on, what writers of a lower epoch send; the next flush may be seconds away."""
        if self._local and self._local.channel in writer.ref.channels:
            self._local.deliver((writer.ref.response_id, writer.epoch, []))

    async def beat(self) -> None:
        """Return when the next flush is about to begin: what is written then leaves with it, so a source read at each beat is read
        as seldom as it is flushed."""
        self._awaited = True
        self._ensure()
        await self._beat.wait()

    async def seize(self, writer: Writer) -> list[Delta]:
        """Fence every writer of a lower epoch off, and return the record; waits for a Valkey that is away, up to the longest stall."""
        ref = msgspec.structs.replace(writer.ref, epoch=writer.epoch)
        until = asyncio.get_running_loop().time() + self._settings.stall_s
        while True:
            try:
                return await seize(self._valkey, ref, self._settings.ttl_s)
            except (RedisError, OSError) as error:
                if asyncio.get_running_loop().time() > until:
                    raise Overloaded("the response log is not available", retry_after_s=1) from error
            await asyncio.sleep(RETRY_S)

    async def drain(self, writer: Writer) -> None:
        """Return once the writer has nothing left to send; raises what broke its log."""
        while (writer.waiting or writer in self._in_flight) and not writer.broken:
            self.changed(writer, urgent=True)
            await self._flushed.wait()
        if writer.broken:
            raise writer.broken

    def forget(self, writer: Writer) -> None:
        """Stop keeping a writer's deltas; what it has not sent yet is still sent once."""
        self.writers.discard(writer)

    async def close(self) -> None:
        """End the task; what is unsent is lost."""
        if self._pump:
            self._pump.cancel()
            await asyncio.gather(self._pump, return_exceptions=True)

    @property
    def tick_s(self) -> float:
        """The pause between two flushes, in seconds: it grows with the number of open answers."""
        load = max(1.0, len(self.writers) / _STREAMS_PER_TICK)
        return min(self._settings.tick_ms * load, self._settings.max_tick_ms) / 1000

    def _ensure(self) -> None:
        if self._pump is None:
            self._pump = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._dirty or self._awaited:
                wait = self._due - loop.time()
                if wait > 0 and not self._urgent:
                    await self._pause(wait)
                if self._urgent:
                    batch, self._urgent = list(self._urgent), {}
                else:
                    await self._announce()
                    batch, self._due = list(self._dirty), loop.time() + self.tick_s
                for writer in batch:
                    self._dirty.pop(writer, None)
                if batch:
                    await self._flush(batch)
        finally:
            self._pump = None

    async def _announce(self) -> None:
        """Wake who waits for the beat, and let each of them write before the flush."""
        beat, self._beat, self._awaited = self._beat, asyncio.Event(), False
        beat.set()
        await asyncio.sleep(0)

    async def _pause(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        alarm = self._alarm = loop.create_future()
        timer = loop.call_later(seconds, lambda: alarm.done() or alarm.set_result(None))
        try:
            await alarm
        finally:
            timer.cancel()
            self._alarm = None

    async def _flush(self, writers: list[Writer]) -> None:
        self._in_flight = writers
        try:
            async with asyncio.timeout(REPLY_S):
                undelivered = await self._send(writers)
        except (RedisError, OSError) as error:
            _logger.warning("valkey is away: %s", error)
            undelivered = list(self.writers.union(writers))
            for writer in undelivered:
                writer.recorded, writer.keep_until = None, 0.0
        finally:
            self._in_flight = []
            self._flushed.set()
            self._flushed.clear()
        if undelivered:
            await self._hold(undelivered)
        else:
            self._stalled_since = None

    async def _send(self, writers: list[Writer]) -> list[Writer]:
        """Record and push; returns the writers whose deltas a follower or the record lacks."""
        pipe = self._valkey.pipeline(transaction=any(writer.ref.shared for writer in writers))
        pushes: dict[str, list[tuple[Writer, Batch]]] = defaultdict(list)
        recorded: dict[int | None, Writer] = {}
        for writer in writers:
            deltas = writer.take()
            if not deltas:
                continue
            batch = (writer.ref.response_id, writer.epoch, deltas)
            for channel in writer.ref.channels:
                if self._local and channel == self._local.channel:
                    self._local.deliver(batch)
                else:
                    pushes[channel].append((writer, batch))
            if writer.ref.record:
                recorded[await self._record(pipe, writer, deltas)] = writer
            if writer.ref.shared:
                pipe.publish(shared_channel(writer.ref), encode([batch]))
        recorded.pop(None, None)
        first_push = len(pipe)
        for channel, batches in pushes.items():
            pipe.publish(channel, encode([batch for _, batch in batches]))
        if not len(pipe):
            return []
        replies = await pipe.execute(raise_on_error=False)
        lost = [writer for place, writer in recorded.items() if place is not None and not await self._kept(writer, replies[place])]
        for batches, count in zip(pushes.values(), replies[first_push:], strict=True):
            lost += [writer for writer, _ in batches] if count == 0 else []
        return lost

    async def _record(self, pipe: Pipeline, writer: Writer, deltas: list[Delta]) -> int | None:
        """Queue what the record does not hold yet; its place in the pipeline, None where the record holds everything."""
        name = stream_key(writer.ref)
        if writer.recorded is None:  # Valkey was away: it may have kept everything, something or nothing
            own = await self._newest(writer) == writer.epoch  # what is recorded under a lower epoch may go on beyond where ours begins
            writer.recorded = len(await read(self._valkey, writer.ref)) if own else 0
        new = [delta for delta in deltas if delta.seq >= (writer.recorded or 0)]
        if not new:
            return None
        place = len(pipe)
        # An emptied Valkey takes no continuation: the reply is None, and the whole log is written again.
        known, writer.recorded = writer.recorded > 0, new[-1].seq + 1
        pipe.xadd(name, {"d": encode(new)}, id=f"{writer.epoch}-{writer.recorded}", nomkstream=known)
        if writer.keep_until < (now := asyncio.get_running_loop().time()) + self._settings.ttl_s / 2:
            writer.keep_until = now + self._settings.ttl_s
            pipe.expire(name, self._settings.ttl_s)
        return place

    async def _kept(self, writer: Writer, reply: object) -> bool:
        """False where what was sent has to be sent again; breaks a writer whose record was refused because another has taken over.

        Refused is also a writer that was overtaken by the one it has handed the log to, which holds all that this one holds.
        """
        if isinstance(reply, ResponseError):
            if "equal or smaller" not in str(reply):
                raise reply
            if await self._newest(writer) > writer.epoch:
                writer.broken = fenced()
                return True
        elif reply is not None:
            return True
        writer.recorded, writer.keep_until = None, 0.0
        return False

    async def _newest(self, writer: Writer) -> int:
        """The epoch of whoever recorded last; -1 where nothing is recorded."""
        newest = cast(Entries, await self._valkey.xrevrange(stream_key(writer.ref), count=1))
        return int(newest[0][0].split(b"-")[0]) if newest else -1

    async def _hold(self, writers: list[Writer]) -> None:
        """Keep what could not be delivered, up to the longest stall."""
        now = asyncio.get_running_loop().time()
        self._stalled_since = self._stalled_since or now
        if now - self._stalled_since > self._settings.stall_s:
            for writer in writers:
                writer.broken = StreamInterrupted("the response log was away for too long")
            self._stalled_since = None
            return
        for writer in writers:
            writer.rewind()
            self._dirty[writer] = None
        await asyncio.sleep(RETRY_S)
