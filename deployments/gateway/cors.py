"""Pages of other sites: which of them may call us from a browser, by cross-origin resource sharing (Fetch Standard, 3.2)."""

from collections.abc import Collection

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_EXPOSED = (
    "x-request-id, x-headrace-route, retry-after, retry-after-ms, x-should-retry, openai-poll-after-ms, "
    "x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, "
    "x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens"
)
_METHODS = "GET, POST, DELETE"
_AGE_S = 600


class Cors:
    """Lets pages of the allowed origins read answers, and answers their preflights; never with credentials of the browser's own."""

    def __init__(self, app: ASGIApp, origins: Collection[str]):
        self._app = app
        self._origins = {origin.encode() for origin in origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer a preflight."""
        origin = next((value for name, value in scope["headers"] if name == b"origin"), None) if scope["type"] == "http" else None
        if origin not in self._origins:
            await self._app(scope, receive, send)
        elif scope["method"] == "OPTIONS" and b"access-control-request-method" in (headers := dict(scope["headers"])):
            await _preflight(origin, headers.get(b"access-control-request-headers", b""))(scope, receive, send)
        else:
            await self._app(scope, receive, _sharing(send, origin))


def _preflight(origin: bytes, wanted: bytes) -> Response:
    headers = {
        "access-control-allow-origin": origin.decode(),
        "access-control-allow-methods": _METHODS,
        "access-control-allow-headers": wanted.decode("latin-1"),
        "access-control-max-age": str(_AGE_S),
        "vary": "origin, access-control-request-headers",
    }
    return Response(status_code=204, headers=headers)


def _sharing(send: Send, origin: bytes) -> Send:
    added = [(b"access-control-allow-origin", origin), (b"access-control-expose-headers", _EXPOSED.encode()), (b"vary", b"origin")]

    async def share(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *added]}
        await send(message)

    return share
