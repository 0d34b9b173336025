"""A frugal HTTP/1.1 client: one connection, one request at a time, and bytes handed on as they come."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

import httptools
import orjson

Sink = Callable[[bytes, float], None]
"""Takes a piece of a body and the time it came."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where chat requests go."""

    host: str
    port: int
    path: str
    key: str

    @classmethod
    def of(cls, url: str, key: str) -> "Address":
        """Return the chat address below an OpenAI base URL (plain HTTP)."""
        parts = urlsplit(url)
        if parts.scheme != "http" or parts.hostname is None:
            raise ValueError(f"not an http:// URL: {url}")
        return cls(parts.hostname, parts.port or 80, f"{parts.path.rstrip('/')}/chat/completions", key)

    def request(self, fields: dict[str, object]) -> bytes:
        """Return the bytes of one chat request."""
        body = orjson.dumps(fields)
        head = (
            f"POST {self.path} HTTP/1.1\r\nhost: {self.host}:{self.port}\r\nauthorization: Bearer {self.key}\r\n"
            f"accept: application/json\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


class Connection(asyncio.Protocol):
    """One connection to a server, to be used for one request after the other."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._reply: asyncio.Future[int] | None = None
        self._sink: Sink | None = None
        self._now = 0.0
        self._transport: asyncio.Transport
        self.open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)
        self.open = True

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the request in flight."""
        self.open = False
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(exc or ConnectionError("closed early"))

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        self._now = time.monotonic()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if self._reply is not None and not self._reply.done():
                self._reply.set_exception(ConnectionError(f"not HTTP: {error}"))
            self._transport.close()

    def on_body(self, body: bytes) -> None:
        """Hand on a piece of the body."""
        if self._sink is not None:
            self._sink(body, self._now)

    def on_message_complete(self) -> None:
        """End the request in flight."""
        status, keep = self._parser.get_status_code(), self._parser.should_keep_alive()
        self._parser = httptools.HttpResponseParser(self)
        if self._reply is not None and not self._reply.done():
            self._reply.set_result(status)
        if not keep:
            self.open = False
            self._transport.close()

    async def exchange(self, request: bytes, sink: Sink) -> int:
        """Send a request, hand its body to `sink`, and return its status; ConnectionError when it is cut."""
        self._sink = sink
        self._reply = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._reply

    def close(self) -> None:
        """Close the connection."""
        self.open = False
        self._transport.close()


async def connect(address: Address) -> Connection:
    """Open a connection."""
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(Connection, address.host, address.port)
    return connection
