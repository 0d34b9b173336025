"""A turn answered over HTTP: streamed as server-sent events, or whole.

Both run the flow in a task of their own, follow its log, and end the flow when the client goes away. Status 200 is sent only
once there is something to answer with, so what fails before that is a real error.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from deployments.core.errors import HeadraceError, Overloaded
from deployments.core.follow import Follower
from deployments.core.types import Delta, Failed, Finished, LogRef, Opened, Turn
from deployments.gateway.context import Context
from deployments.gateway.envelope import Broken
from deployments.gateway.wire import ChatBody, ChatStream

_logger = logging.getLogger("headrace.gateway")

_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


@contextlib.asynccontextmanager
async def answering(parts: Context, turn: Turn) -> AsyncIterator[Follower]:
    """Run the flow for a turn and follow its log; leaving the context ends what still runs.

    Raises Overloaded where this replica writes as many answers as it may, or can't reach the response log.
    """
    if len(parts.outbox.writers) >= parts.settings.gateway.max_streams:
        raise Overloaded("too many answers are being written", retry_after_s=1)
    await parts.hub.ready(parts.settings.log.stall_s)
    ref = LogRef(turn.id, turn.principal.tenant, (parts.hub.channel,), record=parts.settings.log.record)
    with parts.hub.follow(turn.id) as follower, parts.outbox.writer(ref) as writer:
        flow = asyncio.create_task(parts.flow.answer(turn, writer, lambda: follower.next_seq))
        try:
            yield follower
        finally:
            flow.cancel()
            await asyncio.gather(flow, return_exceptions=True)


@contextlib.asynccontextmanager
async def while_connected(receive: Receive) -> AsyncIterator[None]:
    """Run the body for as long as the client is there; a disconnect ends it quietly."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - there is always one inside a coroutine
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if not gone or task.uncancel() > 0:
            raise
    finally:
        watcher.cancel()


async def _first(follower: Follower) -> list[Delta]:
    """The deltas up to and with the first that says something; raises Broken where that is a failure."""
    while True:
        deltas = [delta for delta in await follower.read() if not isinstance(delta, Opened)]
        if deltas and isinstance(deltas[0], Failed):
            raise Broken(deltas[0])
        if deltas:
            return deltas


class Stream(Response):
    """A turn as server-sent events, written as ready bytes."""

    def __init__(self, parts: Context, turn: Turn, encoder: ChatStream):
        super().__init__()
        self._parts = parts
        self._turn = turn
        self._encoder = encoder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the turn; raises what broke before the first byte."""
        async with while_connected(receive), answering(self._parts, self._turn) as follower:
            deltas = await _first(follower)
            await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
            try:
                await self._write(follower, deltas, send)
            except HeadraceError as error:
                await self._send(self._encoder.failed(error), send, last=True)
            except TimeoutError:
                _logger.warning("cut a stream whose client did not read")

    async def _write(self, follower: Follower, deltas: list[Delta], send: Send) -> None:
        body = self._encoder.start()
        while not isinstance(deltas[-1], Finished | Failed):
            if body := body + self._encoder.encode(deltas):
                await self._send(body, send)
                body = b""
            deltas = await self._next(follower, send)
        await self._send(body + self._encoder.encode(deltas), send, last=True)

    async def _next(self, follower: Follower, send: Send) -> list[Delta]:
        while True:
            try:
                async with asyncio.timeout(self._parts.settings.gateway.keep_alive_s):
                    return await follower.read()
            except TimeoutError:
                await self._send(b": keep-alive\n\n", send)

    async def _send(self, body: bytes, send: Send, last: bool = False) -> None:
        async with asyncio.timeout(self._parts.settings.gateway.send_timeout_s):
            await send({"type": "http.response.body", "body": body, "more_body": not last})


class Whole(Response):
    """A turn as one JSON body."""

    def __init__(self, parts: Context, turn: Turn, encoder: ChatBody):
        super().__init__()
        self._parts = parts
        self._turn = turn
        self._encoder = encoder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the turn; raises what broke it."""
        async with while_connected(receive), answering(self._parts, self._turn) as follower:
            body = None
            while body is None:
                body = self._encoder.feed(await follower.read())
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})
