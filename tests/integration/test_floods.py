"""WebSockets that flood: each is closed, and the gateway is as it was."""

import asyncio
import contextlib
import itertools
import json
import statistics
import time
import zlib
from collections.abc import AsyncIterator, Iterable

import psutil
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

from tests.integration.conftest import Stack

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

BATCH = 500


def frame(data: bytes, opcode: Opcode = Opcode.TEXT, fin: bool = True) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=True)


def compressed(data: bytes) -> bytes:
    """As a frame would be marked after an agreement on compression."""
    first, *rest = frame(data)
    return bytes([first | 0x40, *rest])


def fragments(count: int, data: bytes) -> Iterable[bytes]:
    """A message that never ends."""
    return itertools.chain([frame(data, fin=False)], itertools.repeat(frame(data, Opcode.CONT, fin=False), count))


CUT, TOO_FAST = {1009, 1006}, {1008, 1006}
"""Who goes on sending may find the connection reset before it has read why."""

FLOODS = {
    "a frame of 16 MiB": (lambda count: [frame(b"x" * (16 << 20))], CUT),
    "a frame over 16 MiB": (lambda count: [frame(b"x" * (17 << 20))], CUT),
    "tiny frames": (lambda count: itertools.repeat(frame(b"{}"), count), TOO_FAST),
    "tiny binary frames": (lambda count: itertools.repeat(frame(b"", Opcode.BINARY), count), TOO_FAST),
    "fragments of 64 KiB": (lambda count: fragments(1000, b"x" * 65536), CUT),
    "fragments of 2 bytes": (lambda count: fragments(count, b"xx"), TOO_FAST),
    "a deflate bomb": (lambda count: [compressed(zlib.compress(b"\x00" * (64 << 20)))], {1002}),
}


@contextlib.asynccontextmanager
async def opened(stack: Stack) -> AsyncIterator[ClientConnection]:
    url, headers = stack.url.replace("http", "ws") + "/v1/responses", {"authorization": f"Bearer {stack.key}"}
    # It offers compression, as clients do.
    options = {"proxy": None, "max_size": None, "max_queue": None, "ping_interval": None, "close_timeout": 1}
    async with connect(url, additional_headers=headers, **options) as connection:
        yield connection


async def flood(stack: Stack, frames: Iterable[bytes]) -> int | None:
    """Send until the other side has enough; the code it closes with."""
    async with opened(stack) as connection:
        pieces = iter(frames)
        ended = asyncio.create_task(connection.wait_closed())
        while not connection.transport.is_closing() and (batch := b"".join(itertools.islice(pieces, BATCH))):
            with contextlib.suppress(RuntimeError):  # it was closed a moment ago
                connection.transport.write(batch)
            while connection.transport.get_write_buffer_size() and not ended.done():
                await asyncio.sleep(0.001)
        async with asyncio.timeout(30):
            await ended
        return connection.close_code


class Watch:
    """The largest memory of a process since it was begun."""

    def __init__(self, process: psutil.Process):
        self._process, self.begun, self.most = process, process.memory_info().rss, 0

    async def run(self) -> None:
        while True:
            self.most = max(self.most, self._process.memory_info().rss)
            await asyncio.sleep(0.01)

    @property
    def grown_mb(self) -> float:
        return (self.most - self.begun) / 1e6


@pytest.mark.parametrize(("count", "times"), [(20_000, 2), pytest.param(1_000_000, 20, marks=pytest.mark.full)])
@pytest.mark.parametrize("name", FLOODS)
async def test_a_flood_is_closed_and_takes_little(stack: Stack, name: str, count: int, times: int):
    make, codes = FLOODS[name]
    await flood(stack, make(count))  # what is allocated once is not the flood's
    watch = Watch(stack.named("ServeReplica:headrace:gateway"))
    watching, begun = asyncio.create_task(watch.run()), time.monotonic()
    closed = [await flood(stack, make(count)) for _ in range(times)]
    watching.cancel()
    taken_s = (time.monotonic() - begun) / times
    counts = {int(code or 0): closed.count(code) for code in closed}
    print(f"\n{name}, {times} times: closed with {counts} after {taken_s:.2f} s each; memory +{watch.grown_mb:.0f} MB")  # noqa: T201
    assert set(closed) <= codes
    assert watch.grown_mb < 50


async def test_compression_is_not_agreed_on(stack: Stack):
    async with opened(stack) as connection:
        assert connection.response
        assert "sec-websocket-extensions" not in connection.response.headers


@pytest.mark.full
async def test_a_client_that_does_not_pong_is_closed(stack: Stack):
    async with opened(stack) as connection:
        connection.transport.pause_reading()
        begun = time.monotonic()
        await asyncio.sleep(45)
        connection.transport.resume_reading()
        with pytest.raises(ConnectionClosed) as closed:
            await connection.recv()
        print(f"\nno pong: closed with {closed.value.rcvd} within {time.monotonic() - begun:.0f} s")  # noqa: T201
        assert closed.value.rcvd
        assert closed.value.rcvd.code == 1011


async def test_a_healthy_socket_answers_beside_a_flood(stack: Stack):
    async def ask(connection: ClientConnection) -> float:
        begun = time.monotonic()
        await connection.send(json.dumps({"type": "response.create", "model": "headrace-direct", "input": "Hi"}))
        async with asyncio.timeout(60):
            while (event := json.loads(await connection.recv()))["type"] != "response.completed":
                assert event["type"] not in ("response.failed", "error"), event
        return time.monotonic() - begun

    async with opened(stack) as healthy:
        alone = statistics.median([await ask(healthy) for _ in range(3)])
        flooding = asyncio.create_task(flood(stack, itertools.repeat(frame(b"{}"), 100_000)))
        beside = statistics.median([await ask(healthy) for _ in range(3)])
        assert await flooding == 1008
    print(f"\nan answer takes {alone:.2f} s alone, {beside:.2f} s beside a flood")  # noqa: T201
    assert beside < 2 * alone + 1
