"""Following a response that outlives its connection: any replica, any number of watchers, from any event on."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from deployments.core.errors import HeadraceError, InvalidRequest, StreamInterrupted
from deployments.core.follow import Follower
from deployments.core.responses import ENDED
from deployments.core.types import Delta, Last, LogRef, Principal
from deployments.gateway.context import Context, standing
from deployments.gateway.replies import STREAM_HEADERS, Client, nudging
from deployments.gateway.sse import ResponseBody, ResponseStream

Headers = Sequence[tuple[bytes, bytes]]


def shared(caller: Principal, response_id: str) -> LogRef:
    """The log of a response that outlives its connection, as its readers name it."""
    return LogRef(response_id, caller.tenant, (), record=True, shared=True)


async def deltas(parts: Context, caller: Principal, response_id: str, follower: Follower) -> AsyncIterator[list[Delta]]:
    """The log as it comes, to its last delta; [] is a beat in which nothing came. Raises StreamInterrupted where it has no end.

    A response is kept before its end is told, so the end of one that has ended may be on its way for as long as deltas are held.
    """
    responses, now, due = parts.store.of(caller).responses, asyncio.get_running_loop().time, 0.0
    while True:
        ready = await follower.read()
        if not ready and (await responses.get(response_id)).status in ENDED:
            ready = (await parts.hub.recorded(shared(caller, response_id)))[follower.next_seq :]
            follower.recall(ready)
            if ready:
                continue
            due = due or now() + parts.settings.log.stall_s
            if now() > due:
                raise StreamInterrupted("the end of this response was lost; retrieve it without stream", code="log_expired")
        yield ready
        if ready and isinstance(ready[-1], Last):
            return


@contextlib.asynccontextmanager
async def attached(parts: Context, caller: Principal, response_id: str) -> AsyncGenerator[Follower]:
    """A follower of an outliving response, nudged at each beat, that fails once its caller may not read any more.

    Raises InvalidRequest where its log is gone.
    """
    stored = await parts.store.of(caller).responses.get(response_id)
    if stored.status in ENDED and not await parts.hub.recorded(shared(caller, response_id)):
        raise InvalidRequest("the events of this response are not kept any more; retrieve it without stream", code="log_expired")
    async with parts.hub.attach(shared(caller, response_id), parts.settings.log.stall_s) as follower:
        with nudging(follower, parts.settings.gateway.keep_alive_s), parts.watch.over(standing(parts, caller), follower.fail):
            yield follower


class Attached(Response):
    """The events of an outliving response as server-sent events; the client may go, the response stays."""

    def __init__(self, parts: Context, caller: Principal, response_id: str, encoder: ResponseStream, headers: Headers = ()):
        super().__init__()
        self._parts, self._caller, self._id, self._encoder, self._headers = parts, caller, response_id, encoder, headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Follow to the end; raises what is wrong before the first byte."""
        limits = self._parts.settings.gateway
        async with Client(receive, send, limits.send_timeout_s) as client, attached(self._parts, self._caller, self._id) as follower:
            await client.send({"type": "http.response.start", "status": 200, "headers": [*STREAM_HEADERS, *self._headers]})
            try:
                await self._write(client, follower)
            except HeadraceError as error:
                await client.send({"type": "http.response.body", "body": self._encoder.failed(error)})

    async def _write(self, client: Client, follower: Follower) -> None:
        body = self._encoder.start()
        async for ready in deltas(self._parts, self._caller, self._id, follower):
            body += self._encoder.encode(ready) if ready else b": keep-alive\n\n"
            if body:
                await client.send({"type": "http.response.body", "body": body, "more_body": True})
                body = b""
        await client.send({"type": "http.response.body", "body": b""})


class AttachedBody(Response):
    """An outliving response, whole, once it has ended."""

    def __init__(self, parts: Context, caller: Principal, response_id: str, encoder: ResponseBody, headers: Headers = ()):
        super().__init__()
        self._parts, self._caller, self._id, self._encoder, self._headers = parts, caller, response_id, encoder, headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Wait for the end."""
        limits = self._parts.settings.gateway
        async with Client(receive, send, limits.send_timeout_s) as client, attached(self._parts, self._caller, self._id) as follower:
            body = None
            async for ready in deltas(self._parts, self._caller, self._id, follower):
                body = self._encoder.feed(ready)
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body or b"")).encode())]
            await client.send({"type": "http.response.start", "status": 200, "headers": [*headers, *self._headers]})
            await client.send({"type": "http.response.body", "body": body or b""})
