"""`Idempotency-Key`: the same request, sent twice, is answered once.

Who comes first answers, and what it sends is kept, sealed, for those who come later; a stream is kept as the events it consisted of.
Only replies that are whole and well are kept, so that a failed attempt leaves nothing behind. Whoever comes while the first is being
answered waits for its reply, or follows its response where that outlives its connection. A request without the header costs one look
at its headers.
"""

import asyncio
import contextlib
import hashlib
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import msgspec
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.core.errors import HeadraceError, InFlight, InvalidRequest, KeyReused, TooLarge
from deployments.core.idempotency import Attempts, Begun, Claim, Reply
from deployments.core.sql import AWAY, away
from deployments.core.types import Principal
from deployments.gateway import envelope
from deployments.gateway.context import Context, caller_of, holding
from deployments.gateway.replies import Client

_logger = logging.getLogger("headrace.gateway")

HEADER = "idempotency-key"

ENDPOINTS: Mapping[str, str] = {
    "/v1/responses": "chat",
    "/v1/chat/completions": "chat",
    "/v1/completions": "chat",
    "/v1/conversations": "chat",
    "/v1/files": "files:write",
    "/v1/vector_stores": "files:write",
}
"""Where the header is heeded on POST, and the scope that each demands: a kept reply is for nobody who lacks it."""

MAX_REPLY_BYTES = 8 << 20
"""A longer reply is not kept."""

_POLL_S = 0.1
"""Pause between two looks at a request that another gateway answers."""

_LARGE_BYTES = 1 << 20
"""What is larger is digested in a thread."""

_ATTEMPT = "headrace.attempt"
_KEPT = (b"content-type", b"cache-control", b"x-accel-buffering", b"openai-poll-after-ms")
_REPLAYED = (b"idempotent-replayed", b"true")
_BOUNDARY = re.compile(rb'boundary="?([^";]+)')
_BROKEN = re.compile(rb"(^|\n)event: (response\.failed|error)\n")


class Attempt:
    """A request as an endpoint sees its idempotency key; without one nothing comes of it."""

    def __init__(self, answer: str | None = None):
        self.answer = answer
        """The response that answers the request already."""

    async def bind(self, response_id: str) -> None:
        """Note which response will be the answer, before it is there; raises InFlight where another gateway has taken over."""

    def begun(self, response_id: str) -> None:
        """Note that the response is there and outlives its connection, to be followed by all who ask the same."""


def attempt_of(request: HTTPConnection) -> Attempt:
    """The attempt that a request is."""
    return request.scope.get(_ATTEMPT) or Attempt()


@dataclass
class _Running:
    """A request that is being answered in this process."""

    request: bytes
    outcome: asyncio.Future[Reply | Begun | None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def end(self, outcome: Reply | Begun | None) -> None:
        if not self.outcome.done():
            self.outcome.set_result(outcome)


class _First(Attempt):
    """The attempt that answers."""

    def __init__(self, attempts: Attempts, claim: Claim, running: _Running):
        super().__init__()
        self._attempts, self._claim, self._running = attempts, claim, running

    async def bind(self, response_id: str) -> None:
        await self._attempts.bind(self._claim, response_id)

    def begun(self, response_id: str) -> None:
        self._running.end(Begun(response_id))


class Idempotency:
    """ASGI middleware behind the bound of the body; an app that it passes a request to sees nothing but its attempt in the scope."""

    def __init__(self, app: ASGIApp, parts: Context):
        self._app = app
        self._parts = parts
        self._limits = parts.settings.idempotency
        self._running: dict[str, _Running] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it with what it was answered with."""
        wanted = ENDPOINTS.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if wanted is None or all(name != HEADER.encode() for name, _ in scope["headers"]):
            await self._app(scope, receive, send)
            return
        with contextlib.suppress(ClientDisconnect):
            try:
                await self._once(wanted, scope, receive, send)
            except HeadraceError as error:
                await envelope.answer(error)(scope, receive, send)
            except AWAY as error:
                if not (told := away(error)):
                    raise
                await envelope.answer(told)(scope, receive, send)

    async def _once(self, wanted: str, scope: Scope, receive: Receive, send: Send) -> None:
        connection = HTTPConnection(scope)
        caller = holding(self._parts, await caller_of(connection), wanted)
        name = _name(caller, scope["path"], _key(connection))
        body = await _read(receive)
        request = await _digest(body, connection.headers.get("content-type", ""))
        attempts = self._parts.store.of(caller).attempts
        found = await self._found(attempts, name, request)
        if isinstance(found, Reply):
            async with Client(receive, send, self._parts.settings.gateway.send_timeout_s) as client:
                await client.send({"type": "http.response.start", "status": found.status, "headers": [*found.headers, _REPLAYED]})
                await client.send({"type": "http.response.body", "body": found.body})
        elif isinstance(found, Begun):
            scope[_ATTEMPT] = Attempt(found.response_id)
            await self._app(scope, _again(body, receive), send)
        else:
            await self._answer(attempts, found, scope, _again(body, receive), send)

    async def _found(self, attempts: Attempts, name: str, request: bytes) -> Claim | Reply | Begun:
        """The right to answer, or the answer, as soon as there is one; raises KeyReused, or InFlight where it does not come in time."""
        try:
            async with asyncio.timeout(self._limits.wait_s):
                while True:
                    if (running := self._running.get(name)) is None:
                        return await self._claim(attempts, name, request)
                    if running.request != request:
                        raise KeyReused("this idempotency key is used with another request", param=HEADER)
                    if found := await asyncio.shield(running.outcome):
                        return found
        except TimeoutError:
            raise InFlight("the first request with this idempotency key is still being answered", retry_after_s=1) from None

    async def _claim(self, attempts: Attempts, name: str, request: bytes) -> Claim | Reply | Begun:
        """The same for who is the first in this process; others wait for it. A claim stays in `_running` until it is answered."""
        running = self._running[name] = _Running(request)
        found: Claim | Reply | Begun | None = None
        try:
            while not found:
                found = await attempts.claim(name, request, self._limits.lease_s, self._limits.keep_s)
                if not found:
                    await asyncio.sleep(_POLL_S)
            return found
        finally:
            if not isinstance(found, Claim):
                del self._running[name]
                running.end(found)

    async def _answer(self, attempts: Attempts, claim: Claim, scope: Scope, receive: Receive, send: Send) -> None:
        """Have the app answer, and keep its reply; what comes to nothing gives the claim back."""
        running = self._running[claim.name]

        async def settle(reply: Reply | None) -> None:
            try:
                await (attempts.keep(claim, reply, self._limits.keep_s) if reply else attempts.release(claim))
            except SQLAlchemyError:
                _logger.exception("a claim was left to lapse")
            finally:
                self._running.pop(claim.name, None)
                running.end(reply)

        record = _Record(send, settle)
        beat = asyncio.create_task(self._beat(attempts, claim))
        try:
            scope[_ATTEMPT] = _First(attempts, claim, running)  # in place: who is further out reads the route from it
            await self._app(scope, receive, record)
        finally:
            beat.cancel()
            if not record.ended:
                await settle(None)

    async def _beat(self, attempts: Attempts, claim: Claim) -> None:
        while True:
            await asyncio.sleep(self._limits.lease_s / 3)
            try:
                await attempts.renew(claim, self._limits.lease_s)
            except SQLAlchemyError as error:
                _logger.warning("a claim could not be renewed: %s", error)


class _Record:
    """Passes a reply on, and settles what becomes of it before its end is sent: what a client does next finds it done."""

    def __init__(self, send: Send, settle: Callable[[Reply | None], Awaitable[None]]):
        self._send, self._settle = send, settle
        self._status = 0
        self._headers: tuple[tuple[bytes, bytes], ...] = ()
        self._body: list[bytes] = []
        self._bytes = 0
        self.ended = False

    async def __call__(self, message: Message) -> None:
        """Take one message of the app's."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._headers = tuple((name, value) for name, value in message["headers"] if name.lower() in _KEPT)
        elif message["type"] == "http.response.body":
            self._bytes += len(piece := message.get("body", b""))
            if self._bytes <= MAX_REPLY_BYTES:
                self._body.append(piece)
            if not message.get("more_body", False):
                self.ended = True
                await self._settle(self._whole())
        await self._send(message)

    def _whole(self) -> Reply | None:
        """The reply, if it is worth keeping."""
        reply = Reply(self._status, self._headers, b"".join(self._body))
        return reply if self._status < 300 and self._bytes <= MAX_REPLY_BYTES and _well(reply) else None


def _well(reply: Reply) -> bool:
    """Whether a reply of status 2xx is no failure that came after the first byte."""
    if dict(reply.headers).get(b"content-type", b"").startswith(b"text/event-stream"):
        return reply.body.endswith(b"data: [DONE]\n\n") and not _BROKEN.search(reply.body)
    return _status(reply.body) not in ("failed", "cancelled")


class _Standing(msgspec.Struct):
    status: str | None = None


def _status(body: bytes) -> str | None:
    with contextlib.suppress(msgspec.DecodeError):
        return msgspec.json.decode(body, type=_Standing).status
    return None


def _key(connection: HTTPConnection) -> str:
    keys = connection.headers.getlist(HEADER)
    if len(keys) != 1 or not 0 < len(keys[0]) <= 255 or not keys[0].isascii() or not keys[0].isprintable():
        raise InvalidRequest("an idempotency key is one header of 1 to 255 printable characters", param=HEADER, code="invalid_value")
    return keys[0]


def _name(caller: Principal, path: str, key: str) -> str:
    """What a key is good for: one endpoint, for callers of one tenant who speak for the same user and may name the same models."""
    models = None if caller.models is None else sorted(caller.models)
    return hashlib.sha256(msgspec.msgpack.encode([caller.tenant, caller.user, models, path, key])).hexdigest()


async def _read(receive: Receive) -> bytes:
    """The whole body, which is bounded; raises TooLarge, and ClientDisconnect where it does not come."""
    pieces: list[bytes] = []
    while True:
        try:
            message = await receive()
        except HTTPException:
            raise TooLarge("the body is larger than it may be") from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        pieces.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(pieces)


def _again(body: bytes, receive: Receive) -> Receive:
    """A body that has been read, to be read once more."""
    waiting = [body]

    async def replay() -> Message:
        return {"type": "http.request", "body": waiting.pop(), "more_body": False} if waiting else await receive()

    return replay


async def _digest(body: bytes, kind: str) -> bytes:
    """A digest of a request's content; the boundary of a form, which is another each time, is no part of it."""

    def digest() -> bytes:
        boundary = _BOUNDARY.search(kind.encode()) if kind.startswith("multipart/") else None
        return hashlib.sha256(body.replace(boundary[1], b"") if boundary else body).digest()

    return digest() if len(body) < _LARGE_BYTES else await asyncio.to_thread(digest)
