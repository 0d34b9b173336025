"""Reading of files in a process of its own, with bounds on its time, memory and output; also the program of that process.

What reads binary formats has bugs, and what unpacks them is bounded by what it unpacks: neither may touch the worker. A file that is
large goes there as well, since an expression that runs over all of it would hold up everything else in the worker.
"""

import asyncio
import contextlib
import resource
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from dataclasses import dataclass
from os import pathsep
from pathlib import PurePosixPath

import msgspec

from deployments.core.exchange import exchange
from deployments.retriever.document import MAX_CHARACTERS, Document, Unreadable
from deployments.retriever.parse import BINARY, MAX_BYTES, parse

_LARGE_BYTES = 64 << 10
"""What is smaller is read in a thread: starting a process takes 0.3 s."""
_REPLY_BYTES = 16 * MAX_CHARACTERS
"""More than any document takes."""


class Reply(msgspec.Struct, frozen=True):
    """What the process has to say: a document, or why there is none."""

    document: Document | None = None
    code: str = ""
    message: str = ""


@dataclass(frozen=True)
class Bounds:
    """Of one file: bytes, and the time and address space that reading it may take."""

    max_bytes: int = MAX_BYTES
    timeout_s: float = 300
    memory_bytes: int = 1 << 30


async def read(content: bytes, filename: str, bounds: Bounds) -> Document:
    """The document in `content`; raises Unreadable, as `parse` does, and where a bound is reached. Leaves no process behind."""
    if len(content) > bounds.max_bytes or (len(content) < _LARGE_BYTES and PurePosixPath(filename).suffix.lower() not in BINARY):
        return await asyncio.to_thread(parse, content, filename, bounds.max_bytes)
    try:
        async with asyncio.timeout(bounds.timeout_s), _process(filename, bounds) as process:
            packed = await exchange(process, content, _REPLY_BYTES)
    except TimeoutError:
        raise Unreadable(f"it could not be read within {bounds.timeout_s:g} s", code="file_too_large") from None
    try:
        reply = msgspec.msgpack.decode(packed, type=Reply)
    except msgspec.DecodeError:
        raise Unreadable(f"its parser failed, or needed more than {bounds.memory_bytes >> 20} MiB") from None
    if reply.document is None:
        raise Unreadable(reply.message, code=reply.code)
    return reply.document


@contextlib.asynccontextmanager
async def _process(filename: str, bounds: Bounds) -> AsyncIterator[Process]:
    # It gets our import path, and nothing else of our environment: there are secrets in that.
    words = (sys.executable, "-m", "deployments.retriever.apart", filename, str(bounds.timeout_s), str(bounds.memory_bytes))
    process = await asyncio.create_subprocess_exec(*words, stdin=PIPE, stdout=PIPE, stderr=asyncio.subprocess.DEVNULL, env=_environment())
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _environment() -> dict[str, str]:
    return {"PYTHONPATH": pathsep.join(sys.path), "PYTHONUTF8": "1"}


def main() -> None:
    """Read the file on standard input; argv holds its name and the bounds in seconds and bytes."""
    filename, timeout_s, memory_bytes = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    cpu_s = int(timeout_s) + 1
    for bound, value in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
    ):
        resource.setrlimit(bound, (value, value))
    try:
        content = sys.stdin.buffer.read()
        reply = Reply(parse(content, filename, len(content)))
    except Unreadable as error:
        reply = Reply(code=error.wire_code, message=error.message)
    except MemoryError:
        reply = Reply(code="file_too_large", message=f"reading it takes more than {memory_bytes >> 20} MiB")
    sys.stdout.buffer.write(msgspec.msgpack.encode(reply))


if __name__ == "__main__":
    main()
