"""A turn answered over HTTP: streamed as server-sent events, or whole.

Both run the flow in a task of their own, follow its log, and end the flow when the client goes away. Status 200 is sent only
once there is something to answer with, so what fails before that is a real error.
"""

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Generator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from deployments.core.errors import HeadraceError, Overloaded, StreamInterrupted
from deployments.core.follow import Follower
from deployments.core.lease import Lease
from deployments.core.patience import Patience
from deployments.core.run import Keep, Run, forget
from deployments.core.telemetry import ADMISSIONS
from deployments.core.timings import Timings, turning
from deployments.core.types import Delta, Failed, Last, LogRef, Opened, Turn
from deployments.gateway.context import Context, standing
from deployments.gateway.envelope import Broken
from deployments.gateway.measured import Heard, comment, shown

_logger = logging.getLogger("headrace.gateway")

_PLACE_S = 1.0
"""Pause between two notices of a place in the queue."""

STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


@dataclass(frozen=True)
class Answering:
    """An answer that is being written: what follows its log, the lease it is written under, and where its time goes."""

    follower: Follower
    lease: Lease
    timings: Timings
    shows_timing: bool

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """What is told before the first byte: the limits, and where the time went so far where that was asked for."""
        return self.lease.headers + (shown(self.timings) if self.shows_timing else [])

    @property
    def told(self) -> bytes:
        """What is told before the last event of a stream."""
        return comment(self.timings) if self.shows_timing else b""


@contextlib.asynccontextmanager
async def answering(parts: Context, turn: Turn, keep: Keep = forget, requests: int = 1) -> AsyncGenerator[Answering]:
    """Run the flow for a turn and follow its log; leaving the context ends what still runs, and so does the end of the caller's key,
    which is what the follower then raises.

    Raises what admission refuses with, and Overloaded where this replica writes as many answers as it may, or can't reach the
    response log. `requests` is 0 for a turn of a request that has been counted.
    """
    try:
        _see_room(parts)
        await parts.hub.ready(parts.settings.log.stall_s)
    except Overloaded as error:
        ADMISSIONS.add(error.wire_code)
        raise
    ref = LogRef(turn.id, turn.principal.tenant, (parts.hub.channel,), record=parts.settings.log.record)
    timings = Timings()
    async with contextlib.AsyncExitStack() as held:
        mark = held.enter_context(turning(turn))
        with timings.of("admit"):
            want = await parts.gate.want(turn, requests=requests)
            lease = await held.enter_async_context(parts.gate.admit(turn.principal, want))
        _see_room(parts)  # others may have come meanwhile
        with parts.hub.follow(turn.id) as follower, parts.hub.tape(turn.id) as tape, parts.outbox.writer(ref) as writer:
            lease.tape = tape
            heard = Heard(turn, timings, mark, parts.traces, parts.lately)
            follower.handed = heard.handed
            run = Run(writer, tape, parts.store, keep, lease, timings=timings)
            flow = asyncio.create_task(parts.flow.answer(turn, run))
            flow.add_done_callback(lambda task: _broken_off(task, follower))

            def end(why: HeadraceError) -> None:
                follower.fail(why)
                flow.cancel()

            try:
                with parts.watch.over(standing(parts, turn.principal), end):
                    yield Answering(follower, lease, timings, turn.handling.shows_timing)
            except HeadraceError as error:
                error.headers = error.headers or lease.headers  # what is left of the limits is told with every answer
                raise
            finally:
                heard.left(follower)
                flow.cancel()
                try:
                    await asyncio.gather(flow, return_exceptions=True)
                finally:
                    heard.end(follower, tape.deltas)


def _see_room(parts: Context) -> None:
    if len(parts.outbox.writers) >= parts.settings.gateway.max_streams:
        raise Overloaded("too many answers are being written", retry_after_s=1)


def _broken_off(flow: asyncio.Task[None], follower: Follower) -> None:
    """A flow that raises leaves a log without an end: its follower is told."""
    if not flow.cancelled() and (error := flow.exception()):
        _logger.warning("an answer broke off: %s", error)
        follower.fail(error if isinstance(error, HeadraceError) else StreamInterrupted("the answer broke off"))


class Client:
    """The client of one request: watches whether it is still there and still reads.

    As a context manager it ends its body quietly when the client disconnects, or lets one write wait longer than `send_timeout_s`.
    """

    def __init__(self, receive: Receive, send: Send, send_timeout_s: float):
        self._receive = receive
        self._send = send
        self._send_timeout_s = send_timeout_s
        self._patience = Patience(Patience.never)
        self._now = asyncio.get_running_loop().time
        self._gone = False
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> "Client":
        self._task = asyncio.current_task()
        self._watcher = asyncio.create_task(self._watch())
        await self._stack.enter_async_context(self._patience)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        self._watcher.cancel()
        try:
            await self._stack.__aexit__(kind, error, trace)
        except TimeoutError:
            _logger.warning("cut a client that did not read")
            return True
        return self._gone and kind is asyncio.CancelledError and self._task is not None and self._task.uncancel() == 0

    async def send(self, message: Message) -> None:
        """Send, waiting for a slow reader no longer than allowed."""
        self._patience.until = self._now() + self._send_timeout_s
        await self._send(message)
        self._patience.until = Patience.never

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        if self._task:
            self._task.cancel()


@contextlib.contextmanager
def nudging(follower: Follower, every_s: float) -> Generator[None]:
    """Wake a waiting follower at a beat in which nothing has come; one timer a stream is cheaper than one a read."""
    loop = asyncio.get_running_loop()
    seen = -1

    def beat() -> None:
        nonlocal seen, timer
        if follower.next_seq == seen:
            follower.nudge()
        seen, timer = follower.next_seq, loop.call_later(every_s, beat)

    timer = loop.call_later(every_s, beat)
    try:
        yield
    finally:
        timer.cancel()


async def _first(follower: Follower, within_s: float) -> list[Delta]:
    """The deltas up to and with the first that says something, or what has come until then; raises Broken where that is a failure."""
    read: list[Delta] = []
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            while all(isinstance(delta, Opened) for delta in read):
                read += await follower.read()
    said = next((delta for delta in read if not isinstance(delta, Opened)), None)
    if isinstance(said, Failed):
        raise Broken(said)
    return read


class Encodes(Protocol):
    """Deltas to the bytes of a stream."""

    def start(self) -> bytes:
        """What goes before the first delta."""
        ...

    def encode(self, deltas: Sequence[Delta]) -> bytes:
        """The events of some deltas; b"" where they make none."""
        ...

    def failed(self, error: HeadraceError) -> bytes:
        """The event of an error after the first byte; nothing follows it."""
        ...


class Collects(Protocol):
    """Deltas to one body."""

    def feed(self, deltas: Sequence[Delta]) -> bytes | None:
        """Take deltas; the body once the last one has come. Raises Broken."""
        ...


class _Reply(Response, ABC):
    """A turn that is run and followed while its client is there."""

    def __init__(self, parts: Context, turn: Turn, keep: Keep = forget):
        super().__init__()
        self._parts = parts
        self._turn = turn
        self._keep = keep
        self._limits = parts.settings.gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the turn; raises what broke before the first byte."""
        running = answering(self._parts, self._turn, self._keep)
        async with Client(receive, send, self._limits.send_timeout_s) as client, running as answer:
            await self._answer(client, answer)

    @abstractmethod
    async def _answer(self, client: Client, answer: Answering) -> None: ...


class Stream(_Reply):
    """A turn as server-sent events, written as ready bytes."""

    def __init__(self, parts: Context, turn: Turn, encoder: Encodes, keep: Keep = forget, *, tells_place: bool = False):
        super().__init__(parts, turn, keep)
        self._encoder = encoder
        self._tells_place = tells_place

    async def _answer(self, client: Client, answer: Answering) -> None:
        follower = answer.follower
        deltas = await _first(follower, self._limits.commit_s)
        await client.send({"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS + answer.headers})
        try:
            with nudging(follower, min(self._limits.keep_alive_s, _PLACE_S) if self._tells_place else self._limits.keep_alive_s):
                await self._write(answer, deltas, client)
        except HeadraceError as error:
            await client.send({"type": "http.response.body", "body": self._encoder.failed(error)})

    async def _write(self, answer: Answering, deltas: list[Delta], client: Client) -> None:
        body = self._encoder.start()
        while True:
            ended = bool(deltas) and isinstance(deltas[-1], Last)
            body += answer.told if ended else b""
            body += self._encoder.encode(deltas) if deltas else self._beat(answer.lease)
            if body:
                await client.send({"type": "http.response.body", "body": body, "more_body": not ended})
                body = b""
            if ended:
                return
            deltas = await answer.follower.read()

    def _beat(self, lease: Lease) -> bytes:
        """What is said while there is nothing to say: who asked for it is told its place in the queue."""
        if self._tells_place and lease.place is not None:
            return b'event: headrace:queue\ndata: {"type":"headrace:queue","place":%d}\n\n' % lease.place
        return b": keep-alive\n\n"


class Whole(_Reply):
    """A turn as one JSON body."""

    def __init__(self, parts: Context, turn: Turn, encoder: Collects, keep: Keep = forget):
        super().__init__(parts, turn, keep)
        self._encoder = encoder

    async def _answer(self, client: Client, answer: Answering) -> None:
        body = None
        while body is None:
            body = self._encoder.feed(await answer.follower.read())
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await client.send({"type": "http.response.start", "status": 200, "headers": headers + answer.headers})
        await client.send({"type": "http.response.body", "body": body})
