"""GET /v1/responses, upgraded to a WebSocket."""

from typing import cast
from urllib.parse import urlsplit

from fastapi import APIRouter, WebSocket

from deployments.core.errors import Forbidden, HeadraceError
from deployments.core.types import Principal
from deployments.gateway import envelope
from deployments.gateway.context import App, Context, caller_of, holding
from deployments.gateway.socket import Socket

router = APIRouter()


async def connect(socket: WebSocket) -> None:
    """Serve a client that has a key, and whose page, where it has one, is ours."""
    parts = cast(App, socket.app).context

    async def verify() -> Principal:
        return holding(await caller_of(socket), "chat")

    try:
        _same_origin(socket, parts)
        await verify()
    except HeadraceError as error:
        await socket.send_denial_response(envelope.answer(error))
        return
    await socket.accept()
    if len(parts.sockets) >= parts.settings.gateway.max_sockets:
        await socket.close(1013)
        return
    parts.sockets.add(socket)
    try:
        await Socket(parts, verify, socket).run()
    finally:
        parts.sockets.discard(socket)


# Starlette's own route: FastAPI's would hold 6 KiB more for each idle socket.
router.add_websocket_route("/v1/responses", connect)


def _same_origin(socket: WebSocket, parts: Context) -> None:
    """Raises Forbidden where a browser asks for a page of another site."""
    origin = socket.headers.get("origin")
    if origin in parts.settings.gateway.origins:
        return
    if origin is not None and urlsplit(origin).netloc not in (urlsplit(parts.settings.base_url).netloc, socket.headers.get("host")):
        raise Forbidden("this origin may not open a WebSocket here")
