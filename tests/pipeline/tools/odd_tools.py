"""Functions that tests have called in processes of their own."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def add(a: int, b: int) -> dict[str, int]:
    sys.stdout.write("what is printed is no result")
    return {"sum": a + b}


async def later(text: str) -> str:
    await asyncio.sleep(0)
    return text[::-1]


def fails() -> None:
    raise ValueError("no such record")


def exits() -> None:
    os._exit(3)


def sleeps() -> None:
    time.sleep(600)


def spins() -> None:
    while True:
        pass


def grows() -> int:
    return len(bytearray(8 << 30))


def floods() -> str:
    return "x" * (8 << 20)


def gushes() -> None:
    for descriptor in range(3, 16):
        with contextlib.suppress(OSError):
            os.write(descriptor, b"x" * (8 << 20))


def stubborn() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)


def parents() -> str:
    return Path(f"/proc/{os.getppid()}/environ").read_text()


def environment() -> list[str]:
    return sorted(os.environ)


def connects(port: int) -> str:
    with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
        connection.sendall(b"out")
    return "out"


def writes(path: str) -> str:
    Path(path).write_text("x")
    return "written"


def leaves() -> int:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid


def unserialisable() -> Any:
    return object()
