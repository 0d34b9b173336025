"""The response log: one writer appends numbered deltas; followers read them in order, without a gap.

A generation writes to a `Writer`. The `Outbox` of its process gathers what all its writers have and flushes it once a tick, in
one pipeline: each batch is recorded in the response's Valkey stream (ids `<epoch>-<seq + 1>`, so Valkey itself refuses a stale
writer) and published once to every gateway replica that follows. See `follow.py` for the reading side.

Valkey may go away for a while: the outbox keeps what its open writers have written and sends it again; followers drop what they
have already seen.
"""

import asyncio
import logging
from collections import defaultdict
from typing import Protocol, cast

import msgspec
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import RedisError, ResponseError

from deployments.core import config
from deployments.core.errors import HeadraceError, StreamInterrupted
from deployments.core.types import Citation, Cited, Delta, Failed, Finished, LogRef, Opened, Outcome, Text

_logger = logging.getLogger("headrace.log")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Delta]).decode

RETRY_S = 0.05
"""Pause before deltas that could not be delivered are sent again."""

REPLY_S = 5.0
"""Within this time Valkey answers a flush, or it counts as away."""

_STREAMS_PER_TICK = 25
"""Open answers that one base tick serves; with more the tick grows in proportion, so the cost of flushing stays flat.

Measured at 100 open answers on two cores, as tokens/s of what the backend offers and CPU-ms per 1,000 tokens: a tick of 15 ms 96.2 %
and 249, 20 ms 94.9 % and 214, 25 ms 94.2 % and 206, 40 ms 92.6 % and 176. The base tick (`log.tick_ms`) moves them all.
"""

Entries = list[tuple[bytes, dict[bytes, bytes]]]
"""What Valkey answers of a stream: ids and fields."""

Batch = tuple[str, int, list[Delta]]
"""What is pushed for one response: its id, the writer's epoch, and the deltas."""


def stream_key(ref: LogRef) -> str:
    """The Valkey key of a response's recorded log."""
    return f"hr:{{{ref.tenant}}}:log:{ref.response_id}"


class Delivers(Protocol):
    """Followers in this process, which need no Valkey to be reached."""

    channel: str

    def deliver(self, batch: Batch) -> None:
        """Hand a batch to the follower of its response."""
        ...


class Writer:
    """Appends the deltas of one response. Text that waits together leaves as one delta."""

    def __init__(self, ref: LogRef, outbox: "Outbox"):
        self.ref = ref
        self.epoch = ref.epoch
        self.next_seq = ref.next_seq
        self.recorded: int | None = ref.next_seq
        """Number up to which the record holds the log; None where that must be asked of Valkey."""
        self.keep_until = 0.0
        """When the record expires, by the loop's clock."""
        self.broken: HeadraceError | None = None
        self._outbox = outbox
        self._text: list[str] = []
        self._ready: list[Delta] = []
        self._sent: list[Delta] = []

    def __enter__(self) -> "Writer":
        self._outbox.writers.add(self)
        return self

    def __exit__(self, *exc: object) -> None:
        self._outbox.forget(self)

    @property
    def waiting(self) -> bool:
        """Whether something has been appended and not yet taken."""
        return bool(self._ready or self._text)

    def open(self) -> None:
        """Append the first delta of the response."""
        self._append(Opened(self._number()))

    def text(self, text: str) -> None:
        """Append text: the first of this writer leaves at once, more waits for the tick. Raises what broke the log."""
        if text:
            self._text.append(text)
            self._outbox.changed(self, urgent=not self._sent)

    def cite(self, citation: Citation) -> None:
        """Append a citation of a marker already written."""
        self._settle()
        self._append(Cited(self._number(), citation))

    def finish(self, outcome: Outcome) -> None:
        """Take the log back from a generator that returned, and append the last delta."""
        self.next_seq = outcome.next_seq
        self._append(Finished(self._number(), outcome.reason, outcome.usage))

    def fail(self, error: HeadraceError) -> None:
        """Append the last delta of a response that broke off."""
        self._settle()
        failed = Failed(
            self._number(), error.status, error.type, error.wire_code, error.message, error.param, error.retry_after_s, error.retry
        )
        self._append(failed)

    def fence(self, next_seq: int) -> None:
        """Take the log from a generator that did not return: a higher epoch, going on at `next_seq`."""
        self.epoch += 1
        self.next_seq = next_seq

    async def drain(self) -> None:
        """Return once everything appended is delivered. Raises StreamInterrupted where that is not possible."""
        await self._outbox.drain(self)

    def take(self) -> list[Delta]:
        """What has been appended since the last take, numbered."""
        self._settle()
        ready, self._ready = self._ready, []
        self._sent += ready
        return ready

    def rewind(self) -> None:
        """Make everything written so far wait to be sent again."""
        self._settle()
        self._ready, self._sent = self._sent + self._ready, []

    def _append(self, delta: Delta) -> None:
        self._ready.append(delta)
        self._outbox.changed(self, urgent=True)

    def _settle(self) -> None:
        if self._text:
            self._ready.append(Text(self._number(), "".join(self._text)))
            self._text.clear()

    def _number(self) -> int:
        self.next_seq += 1
        return self.next_seq - 1


class Outbox:
    """Flushes the deltas of all writers of a process; one task, which ends when there is nothing to send."""

    def __init__(self, valkey: Redis, settings: config.Log, local: Delivers | None = None):
        self.writers: set[Writer] = set()
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

    async def beat(self) -> None:
        """Return when the next flush is about to begin: what is written then leaves with it, so a source read at each beat is read
        as seldom as it is flushed."""
        self._awaited = True
        self._ensure()
        await self._beat.wait()

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
        """Record and push; returns the writers that a follower did not receive."""
        pipe = self._valkey.pipeline(transaction=False)
        pushes: dict[str, list[tuple[Writer, Batch]]] = defaultdict(list)
        recorded: dict[int | None, Writer] = {}
        for writer in writers:
            deltas = writer.take()
            if not deltas:
                continue
            for channel in writer.ref.channels:
                batch = (writer.ref.response_id, writer.epoch, deltas)
                if self._local and channel == self._local.channel:
                    self._local.deliver(batch)
                else:
                    pushes[channel].append((writer, batch))
            if writer.ref.record:
                recorded[await self._record(pipe, writer, deltas)] = writer
        recorded.pop(None, None)
        first_push = len(pipe)
        for channel, batches in pushes.items():
            pipe.publish(channel, _encode([batch for _, batch in batches]))
        if not len(pipe):
            return []
        replies = await pipe.execute(raise_on_error=False)
        for place, writer in recorded.items():
            if place is not None:
                _judge(writer, replies[place])
        return [writer for batches, count in zip(pushes.values(), replies[first_push:], strict=True) if count == 0 for writer, _ in batches]

    async def _record(self, pipe: Pipeline, writer: Writer, deltas: list[Delta]) -> int | None:
        """Queue what the record does not hold yet; its place in the pipeline, None where the record holds everything."""
        name = stream_key(writer.ref)
        if writer.recorded is None:  # Valkey was away: it may have kept everything, something or nothing
            newest = cast(Entries, await self._valkey.xrevrange(name, count=1))
            writer.recorded = int(newest[0][0].split(b"-")[1]) if newest else 0
        new = [delta for delta in deltas if delta.seq >= (writer.recorded or 0)]
        if not new:
            return None
        place = len(pipe)
        writer.recorded = new[-1].seq + 1
        pipe.xadd(name, {"d": _encode(new)}, id=f"{writer.epoch}-{writer.recorded}")
        if writer.keep_until < (now := asyncio.get_running_loop().time()) + self._settings.ttl_s / 2:
            writer.keep_until = now + self._settings.ttl_s
            pipe.expire(name, self._settings.ttl_s)
        return place

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


def _judge(writer: Writer, reply: object) -> None:
    """Break a writer whose record was refused because another has gone on."""
    if not isinstance(reply, ResponseError):
        return
    if "equal or smaller" not in str(reply):
        raise reply
    writer.broken = StreamInterrupted("another writer has taken over this response", code="fenced")


async def read(valkey: Redis, ref: LogRef, after: int = -1) -> list[Delta]:
    """The recorded deltas with a number over `after`; [] where nothing is recorded."""
    entries = cast(Entries, await valkey.xrange(stream_key(ref)))
    return [delta for _, fields in entries for delta in _decode(fields[b"d"]) if delta.seq > after]
