"""The fault proxy passes on what it takes, and its troubles are noticed."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.chaos.proxy import NONE, End, Passage, Proxy, Trouble

chunks = st.lists(st.binary(max_size=50), max_size=20)


def through(trouble: Trouble, given_: list[bytes]) -> tuple[bytes, End | None]:
    """What comes out until the direction ends."""
    passage, out = Passage(trouble), b""
    for chunk in given_:
        data, end = passage.feed(chunk)
        out += data
        if end:
            return out, end
    return out, None


@given(chunks)
def test_what_goes_in_comes_out(given_: list[bytes]) -> None:
    assert through(NONE, given_) == (b"".join(given_), None)


@given(chunks, st.integers(0, 200), st.sampled_from(End))
def test_an_end_comes_behind_exactly_so_many_bytes(given_: list[bytes], after: int, end: End) -> None:
    whole = b"".join(given_)
    reached = bool(given_) and len(whole) >= after
    assert through(Trouble(after=after, end=end), given_) == (whole[:after] if reached else whole, end if reached else None)


@given(chunks, st.integers(0, 200), st.binary(min_size=1, max_size=9))
def test_garbage_is_put_in_once(given_: list[bytes], after: int, garbage: bytes) -> None:
    whole = b"".join(given_)
    reached = bool(given_) and len(whole) >= after
    expected = whole[:after] + garbage + whole[after:] if reached else whole
    assert through(Trouble(after=after, garbage=garbage), given_) == (expected, None)


@given(chunks)
def test_nothing_passes_where_it_is_held(given_: list[bytes]) -> None:
    assert through(Trouble(hold=True), given_) == (b"", None)


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write(b"<end>")
    writer.close()


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    """A proxy before a server that says again what it hears, and `<end>` when it hears no more."""
    async with await asyncio.start_server(_echo, "127.0.0.1", 0) as server, Proxy(server.sockets[0].getsockname()[1]) as made:
        yield made


async def exchanged(proxy: Proxy, data: bytes) -> bytes:
    """What comes back for some bytes and their end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        writer.write(data)
        writer.write_eof()
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()


async def test_both_directions_and_both_ends_pass(proxy: Proxy) -> None:
    data = bytes(range(256)) * 4000
    assert await exchanged(proxy, data) == data + b"<end>"


async def test_a_cut_is_an_error_not_an_end(proxy: Proxy) -> None:
    proxy.down = Trouble(after=10, end=End.CUT)
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"x" * 100)
    with pytest.raises(ConnectionResetError):
        async with asyncio.timeout(10):
            await reader.read()
    writer.close()


async def test_a_half_close_is_an_end(proxy: Proxy) -> None:
    proxy.down = Trouble(after=10, end=End.HALF_CLOSE)
    assert await exchanged(proxy, b"x" * 100) == b"x" * 10


async def test_a_trickle_and_a_delay_take_their_time(proxy: Proxy) -> None:
    proxy.down = Trouble(bytes_per_s=50)
    began = time.monotonic()
    assert await exchanged(proxy, b"x" * 5) == b"x" * 5 + b"<end>"
    assert time.monotonic() - began >= 0.18
    proxy.down = Trouble(delay_s=0.2)
    began = time.monotonic()
    assert await exchanged(proxy, b"x") == b"x<end>"
    assert time.monotonic() - began >= 0.2


async def test_who_is_refused_is_let_in_again_on_the_same_port(proxy: Proxy) -> None:
    port = proxy.port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"x")
    assert await reader.read(1) == b"x"
    await proxy.refuse()
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
    await proxy.accept()
    assert (proxy.port, await exchanged(proxy, b"x")) == (port, b"x<end>")
