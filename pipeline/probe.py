"""Small questions to a running process, over a socket, without a client library: the command line should start fast."""

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

_PATIENCE_S = 2.0
_MOST_BYTES = 1 << 20


async def converse(path: Path, words: bytes, until: bytes | None, patience_s: float = _PATIENCE_S) -> bytes:
    """What a unix socket answers to `words`, read until `until` is in it, or to its end; "" where nobody listens or it is late."""
    try:
        async with asyncio.timeout(patience_s):
            reader, writer = await asyncio.open_unix_connection(path)
            return await _exchange(reader, writer, words, until)
    except (OSError, TimeoutError):
        return b""


async def call(path: Path, url: str) -> tuple[int, bytes]:
    """Status and body of a GET over a unix socket; status 0 where nobody listens or the answer is late."""
    return _answer(await converse(path, _get(url, "localhost"), None))


async def fetch(host: str, port: int, url: str) -> tuple[int, bytes]:
    """The same over TCP."""
    try:
        async with asyncio.timeout(_PATIENCE_S):
            reader, writer = await asyncio.open_connection(host, port)
            return _answer(await _exchange(reader, writer, _get(url, f"{host}:{port}"), None))
    except (OSError, TimeoutError):
        return 0, b""


def parse(body: bytes) -> dict[str, Any]:
    """A JSON object; {} where it is none."""
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def vacant(host: str, port: int) -> bool:
    """True where the address can be bound now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def pick(count: int) -> list[int]:
    """Loopback ports that are free now, all different."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def _get(url: str, host: str) -> bytes:
    return f"GET {url} HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()


def _answer(raw: bytes) -> tuple[int, bytes]:
    head, _, body = raw.partition(b"\r\n\r\n")
    try:
        return int(head.split(b" ", 2)[1]), body
    except (IndexError, ValueError):
        return 0, b""


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, words: bytes, until: bytes | None) -> bytes:
    try:
        writer.write(words)
        return await _gather(reader, until)
    finally:
        writer.close()


async def _gather(reader: asyncio.StreamReader, until: bytes | None) -> bytes:
    received = b""
    while len(received) < _MOST_BYTES and (until is None or until not in received):
        piece = await reader.read(65536)
        if not piece:
            break
        received += piece
    return received
