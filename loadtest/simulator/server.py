"""The server speaks HTTP/1.1 to each client on a raw asyncio transport."""

import asyncio
from collections import deque
from typing import cast

import httptools

from loadtest.simulator import frames
from loadtest.simulator.answers import Answer
from loadtest.simulator.plan import BadModel
from loadtest.simulator.service import BadRequest, Service

BODY_BYTES = 16 * 2**20
"""A longer request body closes the connection."""


class Connection(asyncio.Protocol):
    """One client connection: requests are answered one after the other, in order."""

    def __init__(self, service: Service, connections: set["Connection"]) -> None:
        self._service = service
        self._connections = connections
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[tuple[str, str, bytes, bool]] = deque()
        self._answer: Answer | None = None
        self._busy = False
        self._url = b""
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the answer in flight: its client has left."""
        self._connections.discard(self)
        self._waiting.clear()
        if self._answer is not None:
            self._answer.end("cancelled")

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def pause_writing(self) -> None:
        """Hold the answer: the client does not keep up."""
        if self._answer is not None:
            self._answer.pause()

    def resume_writing(self) -> None:
        """Go on with a held answer."""
        if self._answer is not None and self._answer.resume():
            self._service.play(self._answer)

    def data_received(self, data: bytes) -> None:
        """Parse what came; a client that does not speak HTTP is dropped."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.write(frames.failure(400, "not HTTP", "invalid_request"))
            self._transport.close()

    def on_message_begin(self) -> None:
        """Start a request."""
        self._url, self._body, self._body_bytes = b"", [], 0

    def on_url(self, url: bytes) -> None:
        """Gather the URL, which may come in pieces."""
        self._url += url

    def on_body(self, body: bytes) -> None:
        """Gather the body."""
        self._body_bytes += len(body)
        if self._body_bytes > BODY_BYTES:
            self._transport.abort()
            return
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Answer the request, or queue it behind the one in flight."""
        method = self._parser.get_method().decode()
        path = self._url.partition(b"?")[0].decode(errors="replace")
        self._waiting.append((method, path, b"".join(self._body), self._parser.should_keep_alive()))
        self._body = []
        if not self._busy:
            self._serve()

    def _serve(self) -> None:
        while self._waiting and not self._busy:
            method, path, body, keep = self._waiting.popleft()
            if (method, path) == ("POST", "/v1/chat/completions"):
                self._begin(body, keep)
            else:
                self._transport.write(self._service.reply(method, path, body))
                self._served(keep)

    def _begin(self, body: bytes, keep: bool) -> None:
        self._busy = True

        def done() -> None:
            self._busy, self._answer = False, None
            self._served(keep)

        try:
            answer = self._service.answer(body, self._transport, done)
        except (BadRequest, BadModel) as error:
            self._transport.write(frames.failure(400, str(error), "invalid_request"))
            done()
        else:
            self._answer = answer if self._busy else None

    def _served(self, keep: bool) -> None:
        if not keep:
            self._transport.close()
        elif self._waiting and not self._transport.is_closing():
            asyncio.get_running_loop().call_soon(self._serve)
