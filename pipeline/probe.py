"""Small questions to a running process, over a socket, without a client library: the command line should start fast."""

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

_PATIENCE_S = 2.0
_MOST_BYTES = 1 << 20


async def converse(path: Path, words: bytes, until: bytes) -> bytes:
    """What a unix socket answers to `words`, read until `until` is in it; "" where nobody listens or the answer is late."""
    try:
        async with asyncio.timeout(_PATIENCE_S):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                writer.write(words)
                return await _gather(reader, until)
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return b""


async def fetch(host: str, port: int, path: str) -> tuple[int, bytes]:
    """Status and body of a GET; status 0 where nobody listens or the answer is late."""
    try:
        async with asyncio.timeout(_PATIENCE_S):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(f"GET {path} HTTP/1.0\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
                head, _, body = (await _gather(reader, None)).partition(b"\r\n\r\n")
                return int(head.split(b" ", 2)[1]), body
            finally:
                writer.close()
    except (OSError, TimeoutError, IndexError, ValueError):
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


async def _gather(reader: asyncio.StreamReader, until: bytes | None) -> bytes:
    received = b""
    while len(received) < _MOST_BYTES and (until is None or until not in received):
        piece = await reader.read(65536)
        if not piece:
            break
        received += piece
    return received
