"""A TCP proxy that spoils what passes: delays, trickles, cuts, half-closes, puts garbage in, or takes no connections.

`Passage` decides what goes out and never touches a socket; `Proxy` moves the bytes, at most 64 KiB of each direction in memory.
"""

import asyncio
import struct
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from socket import SO_LINGER, SOL_SOCKET

CHUNK_BYTES = 64 * 1024
"""Read at once from one side; no more is read before it is written to the other."""

CONNECTIONS = 4096
"""Open at once; more are closed."""

RUBBISH = b"\xff\x00}{\r\n\r\nHTTP/9.9 \x80\n\ndata: {\n\n"


class End(StrEnum):
    """How a direction ends before its sender ends it."""

    CUT = "cut"
    """The connection is reset, both directions."""
    HALF_CLOSE = "half-close"
    """This direction is closed properly; the other goes on."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """What happens to the bytes of one direction of one connection; nothing by default."""

    delay_s: float = 0.0
    bytes_per_s: float | None = None
    """Slower than this nothing goes, in single bytes where it is under 10."""
    after: int | None = None
    """Bytes that pass untouched before `end` or `garbage` strikes, once."""
    end: End | None = None
    garbage: bytes = b""
    """What is put in there."""
    hold: bool = False
    """Nothing passes at all, and the connection stays open."""


NONE = Trouble()


class Passage:
    """One direction of one connection: takes chunks, returns what goes out of them."""

    def __init__(self, trouble: Trouble) -> None:
        self._trouble, self._passed = trouble, 0
        self._struck = trouble.after is None

    def feed(self, chunk: bytes) -> tuple[bytes, End | None]:
        """Return the bytes to pass on, and how the direction ends behind them, if it does."""
        trouble = self._trouble
        if trouble.hold:
            return b"", None
        before, self._passed = self._passed, self._passed + len(chunk)
        if self._struck or trouble.after is None or self._passed < trouble.after:
            return chunk, None
        self._struck = True
        place = trouble.after - before
        if trouble.end is not None:
            return chunk[:place] + trouble.garbage, trouble.end
        return chunk[:place] + trouble.garbage + chunk[place:], None


class Proxy:
    """Listens on the loopback and passes connections on; `up` and `down` are the troubles of connections made from now on."""

    def __init__(self, port: int) -> None:
        """With the port it passes on to."""
        self._target = port
        self.up = self.down = NONE
        self.port = 0
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Proxy":
        await self.accept()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.refuse()

    async def accept(self) -> None:
        """Listen, on the same port as before."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=CHUNK_BYTES, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Listen no more and cut what is open: whoever connects is refused."""
        if self._server is not None:
            self._server.close()
        self.cut()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._server = None

    def cut(self) -> int:
        """Reset every connection that is open; how many there were."""
        count = len(self._open)
        for writer in tuple(self._open):
            _reset(writer)
        return count // 2

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._tasks) >= CONNECTIONS:
            _reset(writer)
            return
        self._tasks.add(task)
        try:
            await self._connected(reader, writer)
        except (OSError, asyncio.CancelledError):
            _reset(writer)
        finally:
            self._tasks.discard(task)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target, limit=CHUNK_BYTES)
        both = {writer, far_writer}
        self._open |= both
        try:
            await asyncio.gather(_pump(reader, far_writer, self.up), _pump(far_reader, writer, self.down))
        except OSError:
            for each in both:  # one side is gone: so is the other
                _reset(each)
        finally:
            self._open -= both
            for each in both:
                each.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, trouble: Trouble) -> None:
    """Move one direction; ConnectionResetError where the trouble cuts it."""
    passage = Passage(trouble)
    while chunk := await reader.read(CHUNK_BYTES):
        data, end = passage.feed(chunk)
        if trouble.delay_s:
            await asyncio.sleep(trouble.delay_s)
        await _write(writer, data, trouble.bytes_per_s)
        if end is End.CUT:
            raise ConnectionResetError("cut by the proxy")
        if end is End.HALF_CLOSE:
            break
    if writer.can_write_eof():
        with suppress(OSError):
            writer.write_eof()


async def _write(writer: asyncio.StreamWriter, data: bytes, bytes_per_s: float | None) -> None:
    piece = len(data) if bytes_per_s is None else max(int(bytes_per_s / 10), 1)
    for start in range(0, len(data), piece or 1):
        writer.write(data[start : start + piece])
        await writer.drain()
        if bytes_per_s is not None:
            await asyncio.sleep(piece / bytes_per_s)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close without a farewell, so that the other side sees a connection that broke."""
    with suppress(OSError):
        sock = writer.get_extra_info("socket")
        if sock is not None and sock.fileno() >= 0:
            sock.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
