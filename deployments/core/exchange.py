"""One question to a child process, and its answer, over its standard streams."""

import contextlib
from asyncio.subprocess import Process


async def exchange(process: Process, content: bytes, most_bytes: int) -> bytes:
    """What the process answers to some content; it is not read any more once it has said more than so many bytes."""
    assert process.stdin is not None  # noqa: S101 — for the type checker: they were asked for
    assert process.stdout is not None  # noqa: S101
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(content)
        await process.stdin.drain()
    process.stdin.close()
    pieces, left = list[bytes](), most_bytes
    while left >= 0 and (piece := await process.stdout.read(1 << 20)):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)
