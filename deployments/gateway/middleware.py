"""What is done to every request before it is routed: its host is looked at, its header and its body are bounded."""

import asyncio
import re
from collections.abc import Collection, Sequence

from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from deployments.core.errors import InvalidRequest, TooLarge
from deployments.gateway import envelope

MAX_HEADER_BYTES = 16 << 10
"""Names and values of all headers; the edge takes half as much."""

_UPLOADS = re.compile("/v1/files|/v1/uploads/[^/]+/parts")
"""Where files are sent."""

_SPARE_BYTES = 64 << 10
_SPARE_S = 1.0


class Hosts:
    """Answers 400 to a request that names another host than ours, but where it only asks whether we live."""

    def __init__(self, app: ASGIApp, hosts: Collection[str]):
        self._app = app
        self._hosts = {host.lower().encode() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] in ("http", "websocket") and not scope["path"].startswith("/health"):
            named = [value.lower() for name, value in scope["headers"] if name == b"host"]
            if len(named) != 1 or (named[0].rsplit(b":", 1)[0] not in self._hosts and named[0] not in self._hosts):
                error = InvalidRequest("this host is not served here", param="host", code="invalid_value")
                await envelope.answer(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class Sockets:
    """Takes a WebSocket straight to its route: what lies between is for requests alone, and an idle socket keeps a frame of each layer."""

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute]):
        self._app = app
        self._endpoints = {route.path: route.endpoint for route in routes if isinstance(route, WebSocketRoute)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a socket, pass anything else on."""
        if scope["type"] == "websocket" and (endpoint := self._endpoints.get(scope["path"])):
            await endpoint(WebSocket(scope, receive, send))
        else:
            await self._app(scope, receive, send)


class BodyBound:
    """Answers 413 to a body over its bound, whether it says so in front or not; the framework's own bound can't answer in JSON."""

    def __init__(self, app: ASGIApp, max_body_bytes: int, max_upload_bytes: int):
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._max_upload_bytes = max_upload_bytes + (64 << 10)  # the multipart frame around the file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, counting what it sends."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADER_BYTES:
            error = InvalidRequest(f"the headers are over {MAX_HEADER_BYTES} bytes", code="request_too_large")
            await envelope.answer(error)(scope, receive, send)
            return
        bound = self._max_upload_bytes if _UPLOADS.fullmatch(scope["path"]) else self._max_body_bytes
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if not declared.isdigit() or len(declared) > 18 or int(declared) > bound:
            refused = envelope.answer(TooLarge(f"the body is larger than {bound} bytes"))
            refused.headers.update(await _rest(receive))
            await refused(scope, receive, send)
            return
        received = 0

        async def bounded() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > bound:
                # the one error that the framework lets through while it reads a body
                raise HTTPException(413, headers=await _rest(receive) if message.get("more_body") else None)
            return message

        await self._app(scope, bounded, send)


async def _rest(receive: Receive) -> dict[str, str]:
    """Drop what still comes of a body; returns the header that ends the connection where it does not end soon.

    A connection that is closed on a client that still writes is reset, and the answer may be lost with it.
    """
    left = _SPARE_BYTES
    try:
        async with asyncio.timeout(_SPARE_S):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body"):
                    return {}
    except TimeoutError:
        pass
    return {"connection": "close"}
