"""The one thing done to every request before it is routed: its body is bounded."""

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.core.errors import TooLarge
from deployments.gateway import envelope


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
        bound = self._max_upload_bytes if scope["path"] == "/v1/files" else self._max_body_bytes
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if not declared.isdigit() or len(declared) > 18 or int(declared) > bound:
            await envelope.answer(TooLarge(f"the body is larger than {bound} bytes"))(scope, receive, send)
            return
        received = 0

        async def bounded() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > bound:
                raise HTTPException(413)  # the one error that the framework lets through while it reads a body
            return message

        await self._app(scope, bounded, send)
