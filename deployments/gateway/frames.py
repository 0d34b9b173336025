"""WebSocket frames, bounded before they are messages: what the server is told in no other way."""

import asyncio
from typing import Any

from uvicorn.config import WS_PROTOCOLS
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

MAX_MESSAGE_BYTES = 1 << 20
"""A longer message closes the socket with 1009, before it is there whole."""

MAX_FRAGMENTS = 1024
"""More fragments of one message close it with 1008: one of two bytes takes 56 in memory."""

MAX_UNREAD_BYTES = 4 << 20
"""Pongs that a client asks for and does not read, beside what is sent to it; more end the connection."""

LEAVING = "headrace.leaving"
"""Where a socket's scope has a future that is done once its server is to end."""


class Bounded(WebSocketsSansIOProtocol):
    """uvicorn's protocol without compression, with bounds on a message and on what waits to be read, and an end that cuts no answer."""

    def __init__(self, config: Any, *args: Any, **options: Any):
        config.ws_max_size, config.ws_per_message_deflate = MAX_MESSAGE_BYTES, False
        super().__init__(config, *args, **options)
        self._deaf_bytes = 0
        self._leaving: asyncio.Future[None] = self.loop.create_future()

    async def run_asgi(self) -> None:
        """Run the application, which hears of the server's end."""
        self.scope[LEAVING] = self._leaving  # type: ignore[typeddict-unknown-key]
        await super().run_asgi()

    def shutdown(self) -> None:
        """Leave it to the application to close an open socket: a disconnect from here would have Serve cancel what it answers."""
        if self.close_sent or not self.handshake_complete:
            super().shutdown()
        elif not self._leaving.done():
            self._leaving.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Take bytes; ends a connection that does not read, or goes on writing when it was told to close."""
        if self.close_sent:
            self._deaf_bytes += len(data)
        if self._deaf_bytes > MAX_MESSAGE_BYTES or self.transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
            self.transport.abort()
        else:
            super().data_received(data)

    def handle_cont(self, event: Frame) -> None:
        """Take a fragment."""
        super().handle_cont(event)
        if len(self.frames) > MAX_FRAGMENTS:
            self.frames = []
            self.conn.fail(1008, "too many fragments")
            self.handle_parser_exception()


def bound() -> None:
    """Have servers of this process that choose a protocol themselves, as Serve's do, take this one."""
    WS_PROTOCOLS["auto"] = f"{Bounded.__module__}:{Bounded.__name__}"
