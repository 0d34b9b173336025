"""Several answers to one question, side by side in one reply."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from deployments.core.errors import HeadraceError
from deployments.core.follow import Follower
from deployments.core.lease import Lease
from deployments.core.types import Cancelled, Delta, Failed, Last, Opened, Turn
from deployments.gateway.context import Context
from deployments.gateway.envelope import Broken
from deployments.gateway.replies import STREAM_HEADERS, Client, answering, nudging

Arrivals = asyncio.Queue[tuple[int, list[Delta] | HeadraceError]]


class Encodes(Protocol):
    """Deltas of several answers to the bytes of one stream."""

    def start(self) -> bytes:
        """What goes before the first delta."""
        ...

    def encode(self, deltas: Sequence[Delta], index: int) -> bytes:
        """The events of some deltas of one answer."""
        ...

    def failed(self, error: HeadraceError) -> bytes:
        """The event of an error after the first byte."""
        ...


class Collects(Protocol):
    """Deltas of several answers to one body."""

    def feed(self, deltas: Sequence[Delta], index: int) -> bytes | None:
        """Take deltas of one answer; the body once the last one of all has come."""
        ...


@contextlib.asynccontextmanager
async def together(parts: Context, turns: Sequence[Turn], every_s: float) -> AsyncGenerator[tuple[Arrivals, Lease]]:
    """Answer several turns at once; what comes of each is put into one queue with its place. [] is a beat in which nothing came.

    The lease is that of the first, which stands for the request.
    """
    arrivals: Arrivals = asyncio.Queue(maxsize=len(turns))

    async def pump(index: int, follower: Follower) -> None:
        try:
            with nudging(follower, every_s):
                deltas: list[Delta] = []
                while not deltas or not isinstance(deltas[-1], Last):
                    deltas = await follower.read()
                    await arrivals.put((index, deltas))
                follower.settle()
        except HeadraceError as error:
            await arrivals.put((index, error))

    async with contextlib.AsyncExitStack() as stack:
        answers = [await stack.enter_async_context(answering(parts, turn, requests=int(not index))) for index, turn in enumerate(turns)]
        pumps = [asyncio.create_task(pump(index, answer.follower)) for index, answer in enumerate(answers)]
        try:
            yield arrivals, answers[0].lease
        finally:
            for task in pumps:
                task.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)


class SeveralStreams(Response):
    """Several answers as one stream of server-sent events."""

    def __init__(self, parts: Context, turns: Sequence[Turn], encoder: Encodes):
        super().__init__()
        self._parts, self._turns, self._encoder = parts, turns, encoder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer all turns; raises what broke before the first byte."""
        limits = self._parts.settings.gateway
        running = together(self._parts, self._turns, limits.keep_alive_s)
        async with Client(receive, send, limits.send_timeout_s) as client, running as (arrivals, lease):
            index, deltas = await _first(arrivals, limits.commit_s)
            await client.send({"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS + lease.headers})
            try:
                await self._write(client, arrivals, index, deltas)
            except HeadraceError as error:
                await client.send({"type": "http.response.body", "body": self._encoder.failed(error)})

    async def _write(self, client: Client, arrivals: Arrivals, index: int, deltas: list[Delta]) -> None:
        body, left = self._encoder.start(), len(self._turns)
        while True:
            body += self._encoder.encode(deltas, index) if deltas else b": keep-alive\n\n"
            if deltas and isinstance(deltas[-1], Last):
                left = 0 if isinstance(deltas[-1], Failed | Cancelled) else left - 1
            if body:
                await client.send({"type": "http.response.body", "body": body, "more_body": left > 0})
                body = b""
            if not left:
                return
            index, deltas = _checked(await arrivals.get())


class SeveralWhole(Response):
    """Several answers as one JSON body."""

    def __init__(self, parts: Context, turns: Sequence[Turn], encoder: Collects):
        super().__init__()
        self._parts, self._turns, self._encoder = parts, turns, encoder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer all turns."""
        limits = self._parts.settings.gateway
        running = together(self._parts, self._turns, limits.keep_alive_s)
        async with Client(receive, send, limits.send_timeout_s) as client, running as (arrivals, lease):
            body = None
            while body is None:
                index, deltas = _checked(await arrivals.get())
                body = self._encoder.feed(deltas, index)
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
            await client.send({"type": "http.response.start", "status": 200, "headers": headers + lease.headers})
            await client.send({"type": "http.response.body", "body": body})


async def _first(arrivals: Arrivals, within_s: float) -> tuple[int, list[Delta]]:
    """The first arrival that says something, or none within that time; raises Broken where it is a failure."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            while True:
                index, deltas = _checked(await arrivals.get())
                said = [delta for delta in deltas if not isinstance(delta, Opened)]
                if said and isinstance(said[0], Failed):
                    raise Broken(said[0])
                if said:
                    return index, deltas
    return 0, []


def _checked(arrival: tuple[int, list[Delta] | HeadraceError]) -> tuple[int, list[Delta]]:
    index, deltas = arrival
    if isinstance(deltas, HeadraceError):
        raise deltas
    return index, deltas
