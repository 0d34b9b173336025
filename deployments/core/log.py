"""The response log: one writer appends numbered deltas; followers read them in order, without a gap.

A generation writes to a `Writer`. The `Outbox` of its process gathers what all its writers have and flushes it once a tick, in
one pipeline: each batch is recorded in the response's Valkey stream (ids `<epoch>-<seq + 1>`, so Valkey itself refuses a stale
writer) and published once to every replica that follows. See `follow.py` for the reading side.

A shared log is published on a channel of its own as well, for readers who come later, and in one step with its record: who takes
such a log over (`seize`) has, once that is done, everything that any reader has seen.

Valkey may go away for a while, or lose everything: who owns a log holds all of it and sends it again; followers drop what they
have already seen.
"""

from collections.abc import Sequence
from typing import Protocol, cast

import msgspec
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from deployments.core.errors import HeadraceError, StreamInterrupted
from deployments.core.tools import Awaits, Ran
from deployments.core.types import (
    Called,
    Cancelled,
    Citation,
    Cited,
    Delta,
    Failed,
    Finished,
    Hit,
    Last,
    Logprob,
    LogRef,
    Opened,
    Outcome,
    Searched,
    Searching,
    Switched,
    Text,
)

encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Delta]).decode

_NOTHING = encode([])

Entries = list[tuple[bytes, dict[bytes, bytes]]]
"""What Valkey answers of a stream: ids and fields."""

Batch = tuple[str, int, list[Delta]]
"""What is pushed for one response: its id, the writer's epoch, and the deltas."""


def stream_key(ref: LogRef) -> str:
    """The Valkey key of a response's recorded log."""
    return f"hr:{{{ref.tenant}}}:log:{ref.response_id}"


def shared_channel(ref: LogRef) -> str:
    """The channel on which a shared log is published."""
    return f"hr:{{{ref.tenant}}}:live:{ref.response_id}"


class Sends(Protocol):
    """What a writer hands its deltas to."""

    writers: "set[Writer]"

    def now(self) -> int:
        """The time in Unix seconds."""
        ...

    def changed(self, writer: "Writer", urgent: bool) -> None:
        """Note that a writer has something to send; raises what broke its log."""
        ...

    def announce(self, writer: "Writer") -> None:
        """Have followers in this process drop, from now on, what writers of a lower epoch send."""
        ...

    async def seize(self, writer: "Writer") -> list[Delta]:
        """Fence every writer of a lower epoch off, and return the record."""
        ...

    async def drain(self, writer: "Writer") -> None:
        """Return once the writer has nothing left to send; raises what broke its log."""
        ...

    def forget(self, writer: "Writer") -> None:
        """Stop keeping a writer's deltas; what it has not sent yet is still sent once."""
        ...


class Writer:
    """Appends the deltas of one response. Text that waits together leaves as one delta."""

    def __init__(self, ref: LogRef, outbox: Sends):
        self.ref = ref
        self.epoch = ref.epoch
        self.next_seq = ref.next_seq
        self.recorded: int | None = ref.next_seq
        """Number up to which the record holds the log; None where that must be asked of Valkey."""
        self.keep_until = 0.0
        """When the record expires, by the loop's clock."""
        self.broken: HeadraceError | None = None
        self._outbox = outbox
        self._spoken = False
        self._text: list[str] = []
        self._logprobs: list[Logprob] = []
        self._tokens = 0
        self._ready: list[Delta] = []
        self._sent: list[Delta] = list(ref.written)

    def __enter__(self) -> "Writer":
        self._outbox.writers.add(self)
        return self

    def __exit__(self, *exc: object) -> None:
        self._outbox.forget(self)

    @property
    def waiting(self) -> bool:
        """Whether something has been appended and not yet taken."""
        return bool(self._ready or self._text)

    @property
    def written(self) -> tuple[Delta, ...]:
        """The whole log so far."""
        self._settle()
        return (*self._sent, *self._ready)

    def open(self) -> None:
        """Append the first delta of the response."""
        self._append(Opened(self._number()))

    def text(self, text: str, logprobs: Sequence[Logprob] = ()) -> None:
        """Append text: the first of this writer leaves at once, more waits for the tick. Raises what broke the log."""
        self._logprobs += logprobs
        if text:
            self._text.append(text)
            self._outbox.changed(self, urgent=not self._spoken)
            self._spoken = True

    def count(self, tokens: int) -> None:
        """Note that the backend has written so many tokens; the next text says so."""
        self._tokens += tokens

    def cite(self, citation: Citation) -> None:
        """Append a citation of a marker already written."""
        self._settle()
        self._append(Cited(self._number(), citation))

    def searching(self, queries: Sequence[str]) -> None:
        """Append that a search has begun."""
        self._append(Searching(self._number(), tuple(queries)))

    def searched(self, hits: Sequence[Hit]) -> None:
        """Append what the search has found."""
        self._append(Searched(self._number(), tuple(hits)))

    def switched(self, code: str) -> None:
        """Append that another backend takes over."""
        self._settle()
        self._append(Switched(self._number(), code))

    def call(self, index: int, call_id: str | None, name: str | None, arguments: str) -> None:
        """Append a piece of a call of one of the caller's functions."""
        self._settle()
        self._ready.append(Called(self._number(), index, call_id, name, arguments))
        self._outbox.changed(self, urgent=not self._spoken)
        self._spoken = True

    def ran(self, call: Ran) -> None:
        """Append what a call of a tool of headrace's came to, whatever number it has."""
        self._settle()
        self._append(msgspec.structs.replace(call, seq=self._number()))

    def awaits(self, name: str, label: str, tool: str, arguments: str) -> None:
        """Append that a call waits for the caller's approval; `name` is the id of the request for it."""
        self._settle()
        self._append(Awaits(self._number(), name, label, tool, arguments))

    def finished(self, outcome: Outcome) -> Finished:
        """The last delta of an answer that is complete."""
        return Finished(self._last(), outcome.reason, outcome.usage, self._outbox.now())

    def failed(self, error: HeadraceError) -> Failed:
        """The last delta of an answer that broke off."""
        kind, code, again, at = error.type, error.wire_code, error.retry_after_s, self._outbox.now()
        return Failed(self._last(), error.status, kind, code, error.message, error.param, again, error.retry, at)

    def cancelled(self) -> Cancelled:
        """The last delta of an answer that its owner ended."""
        return Cancelled(self._last(), self._outbox.now())

    def end(self, last: Last) -> None:
        """Append a last delta that `finished`, `failed` or `cancelled` made; nothing follows it."""
        self._number()
        self._append(last)

    def adopt(self, seen: Sequence[Delta], count: int = 0) -> None:
        """Hold what another writer has appended to this log, as it was followed; it may have got to `count` already."""
        self._settle()
        if len(seen) > self.next_seq:
            again = self.recorded is None  # then nobody knows how much of it is recorded
            self._sent, self._ready = ([], list(seen)) if again else (list(seen), [])
        if (count := max(count, len(seen))) > self.next_seq:
            self.next_seq = count
            self.recorded = None if self.recorded is None else count

    def fence(self, seen: Sequence[Delta]) -> None:
        """Take the log from a generator that did not return: a higher epoch, going on behind what was followed."""
        self.epoch += 1
        self._outbox.announce(self)
        self.adopt(seen)

    async def seize(self, seen: Sequence[Delta] = ()) -> None:
        """Take a shared log over: a higher epoch, going on behind the record, or behind what was followed where that is more.

        Raises StreamInterrupted where another has gone further.
        """
        self.epoch += 1
        recorded = await self._outbox.seize(self)
        self.adopt(seen if len(seen) > len(recorded) else recorded)
        if len(recorded) < self.next_seq:
            self.recorded = None
            self.rewind()

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
            self._ready.append(Text(self._number(), "".join(self._text), tuple(self._logprobs), self._tokens))
            self._text.clear()
            self._logprobs.clear()
            self._tokens = 0

    def _last(self) -> int:
        self._settle()
        return self.next_seq

    def _number(self) -> int:
        self.next_seq += 1
        return self.next_seq - 1


def fenced() -> StreamInterrupted:
    """What a writer is told whose log another has taken over."""
    return StreamInterrupted("another writer has taken over this response", code="fenced")


async def read(valkey: Redis, ref: LogRef, after: int = -1) -> list[Delta]:
    """The recorded deltas with a number over `after`, as far as the record has no gap from 0 on; [] where nothing is recorded.

    What a writer has recorded beyond the place where a higher epoch goes on is void.
    """
    entries = cast(Entries, await valkey.xrange(stream_key(ref)))
    log: list[Delta] = []
    epoch = 0
    for name, fields in entries:
        deltas = _decode(fields.get(b"d", _NOTHING))
        if deltas and (own := int(name.split(b"-")[0])) > epoch:
            epoch = own
            del log[deltas[0].seq :]
        log += [delta for delta in deltas if delta.seq >= len(log)]
    whole = [delta for place, delta in enumerate(log) if delta.seq == place]
    return whole[after + 1 :]


async def seize(valkey: Redis, ref: LogRef, ttl_s: int) -> list[Delta]:
    """Take a shared log over, with the epoch of `ref`: from now on every writer of a lower one is refused, by the record and by
    followers. Returns the log so far. Raises StreamInterrupted where another has gone further."""
    pipe = valkey.pipeline(transaction=True)
    pipe.xadd(stream_key(ref), {"e": b""}, id=f"{ref.epoch}-0")
    pipe.expire(stream_key(ref), ttl_s)
    pipe.publish(shared_channel(ref), encode([(ref.response_id, ref.epoch, [])]))
    replies = await pipe.execute(raise_on_error=False)
    if isinstance(replies[0], ResponseError):
        raise fenced() if "equal or smaller" in str(replies[0]) else replies[0]
    return await read(valkey, ref)
