"""A body that trickles in holds nothing for long: the edge bounds its start, this its rest."""

import asyncio

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

GRACE_S = 10.0
"""Time any body may take; twice the edge's deadline for its start."""

SLOWEST_BYTES_S = 8 << 10
"""Beyond that, a body has to come so fast: an upload of 32 MiB may take 69 minutes, one that stops is cut."""


class Receipt:
    """Answers 408 to a body that does not come in time."""

    def __init__(self, app: ASGIApp, grace_s: float = GRACE_S, slowest_bytes_s: float = SLOWEST_BYTES_S):
        self._app, self._grace_s, self._slowest_bytes_s = app, grace_s, slowest_bytes_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and look at the clock until its body is there."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, received, whole = asyncio.get_running_loop().time(), 0, False

        async def timely() -> Message:
            nonlocal received, whole
            if whole:
                return await receive()
            try:
                async with asyncio.timeout_at(begun + self._grace_s + received / self._slowest_bytes_s):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408) from None  # as in BodyBound, what the framework lets through
            received, whole = received + len(message.get("body", b"")), not message.get("more_body", False)
            return message

        await self._app(scope, timely, send)
