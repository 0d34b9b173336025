"""GET /v1/responses, upgraded to a WebSocket."""

from typing import cast
from urllib.parse import urlsplit

from fastapi import APIRouter, WebSocket

from deployments.core.errors import Forbidden, HeadraceError, Unauthenticated
from deployments.core.tokens import is_ticket, is_token
from deployments.core.types import Principal
from deployments.gateway import envelope
from deployments.gateway.context import App, Context, address, bearer, holding, identified, standing
from deployments.gateway.socket import Socket
from deployments.gateway.watch import Proof

router = APIRouter()

_CREDENTIAL = "openai-insecure-api-key."
"""Begins the subprotocol that carries a browser's token, as a page can set no header on a socket."""


async def connect(socket: WebSocket) -> None:
    """Serve a client that has a key or token, and whose page, where it has one, is ours."""
    parts = cast(App, socket.app).context
    protocols = [name.strip() for name in socket.headers.get("sec-websocket-protocol", "").split(",") if name.strip()]
    try:
        _same_origin(socket, parts)
        proof = await _proof(socket, parts, protocols)
        await proof.again()
    except HeadraceError as error:
        await socket.send_denial_response(envelope.answer(error))
        return
    # The token's own subprotocol is not the one that is chosen: it would come back in a header.
    await socket.accept(next((name for name in protocols if not name.startswith(_CREDENTIAL)), None))
    if len(parts.sockets) >= parts.settings.gateway.max_sockets:
        await socket.close(1013)
        return
    parts.sockets.add(socket)
    try:
        await Socket(parts, proof, socket).run()
    finally:
        parts.sockets.discard(socket)


# Starlette's own route: FastAPI's would hold 6 KiB more for each idle socket.
router.add_websocket_route("/v1/responses", connect)


async def _proof(socket: WebSocket, parts: Context, protocols: list[str]) -> Proof:
    """What proves the caller for as long as the socket is open; takes a ticket. Raises Unauthenticated, Forbidden or Overloaded."""
    token = next((name.removeprefix(_CREDENTIAL) for name in protocols if name.startswith(_CREDENTIAL)), None)
    if token is not None and not is_token(token):
        raise Unauthenticated("a page sends a session token or a ticket, never an API key; POST /v1/session_tokens makes them")
    if token is not None and is_ticket(token):
        return standing(parts, await _redeemed(socket, parts, token))
    secret = token or bearer(socket)

    async def again() -> Principal:
        return holding(parts, await identified(socket, secret), "chat")

    return Proof(secret, again)


async def _redeemed(socket: WebSocket, parts: Context, ticket: str) -> Principal:
    try:
        return await parts.tokens.redeem(ticket)
    except Unauthenticated:
        parts.refusals.note("refused.ticket", address(socket))
        raise


def _same_origin(socket: WebSocket, parts: Context) -> None:
    """Raises Forbidden where a browser asks for a page of another site."""
    origin = socket.headers.get("origin")
    if origin in parts.settings.gateway.origins:
        return
    if origin is not None and urlsplit(origin).netloc not in (urlsplit(parts.settings.base_url).netloc, socket.headers.get("host")):
        raise Forbidden("this origin may not open a WebSocket here")
