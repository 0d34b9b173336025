"""Where the table of one vector store lies on disk, and what its writers agree on there: locks, and which of its tables is in force.

A store's folder holds `at`, the name of the table in force; `next`, that of one being built to take its place; `touched`, the files that
changed meanwhile, which are written to both; and `stale`, where bytes of rows that were deleted may still be on disk. Replicas and
processes agree by file locks: who changes rows shares the lock, who changes which tables there are has it alone.
"""

import asyncio
import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from random import uniform

ABANDONED_S = 120
"""A table being built that nothing was added to for so long has lost its builder."""
_POLL_S = 0.002


@dataclass(frozen=True)
class Place:
    """The folder of one store's tables."""

    folder: Path

    @property
    def current(self) -> str | None:
        """The table in force; None where there is none."""
        return self._read("at")

    @property
    def building(self) -> str | None:
        """The table that is being built."""
        return self._read("next")

    @property
    def abandoned(self) -> bool:
        """Whether what is being built has lost its builder, as far as one can tell."""
        try:
            return time.time() - (self.folder / "next").stat().st_mtime > ABANDONED_S
        except FileNotFoundError:
            return False

    @property
    def stale(self) -> bool:
        """Whether there may be bytes on disk that nobody may read any more."""
        return (self.folder / "stale").exists() or self.abandoned

    def soil(self) -> None:
        """Note that rows were deleted."""
        (self.folder / "stale").touch()

    def begin(self, table: str) -> None:
        """From here on changes are written to that table as well; one that was being built before is given up."""
        (self.folder / "touched").unlink(missing_ok=True)
        (self.folder / "stale").unlink(missing_ok=True)
        self._write("next", table)
        self._remove_others({table, self.current})

    def abandon(self) -> None:
        """Give up what is being built: it lacks a change. Its builder finds out, its bytes go with the next that is built."""
        (self.folder / "next").unlink(missing_ok=True)
        self.soil()

    def beat(self) -> None:
        """Say that the builder is alive."""
        os.utime(self.folder / "next")

    def touch(self, file_id: str) -> None:
        """Note that a file changed while a table is being built."""
        with (self.folder / "touched").open("a") as touched:
            touched.write(f"{_digest(file_id)}\n")

    def touched(self) -> "Touched":
        """The files that changed since the building began."""
        return Touched(frozenset((self._read("touched") or "").split()))

    def swap(self, table: str | None) -> None:
        """Put a table in force, in one step, and remove all others."""
        if table is None:
            (self.folder / "at").unlink(missing_ok=True)
        else:
            self._write("at", table)
        for name in ("next", "touched"):
            (self.folder / name).unlink(missing_ok=True)
        self._remove_others({table})

    @contextlib.asynccontextmanager
    async def shared(self) -> AsyncGenerator[None]:
        """Hold the lock as one of those who change rows."""
        async with self._locked(fcntl.LOCK_SH):
            yield

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncGenerator[None]:
        """Hold the lock alone."""
        async with self._locked(fcntl.LOCK_EX):
            yield

    @contextlib.asynccontextmanager
    async def _locked(self, kind: int) -> AsyncGenerator[None]:
        # Everyone passes a gate, which who wants to be alone keeps shut while the others finish: they can not starve it.
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.folder / "gate").open("w") as gate, (self.folder / "lock").open("w") as lock:
            await _take(gate.fileno(), fcntl.LOCK_EX)
            await _take(lock.fileno(), kind)
            fcntl.flock(gate, fcntl.LOCK_UN)
            yield

    def _read(self, name: str) -> str | None:
        try:
            return (self.folder / name).read_text()
        except FileNotFoundError:
            return None

    def _write(self, name: str, content: str) -> None:
        draft = self.folder / f"{name}.new"
        draft.write_text(content)
        draft.replace(self.folder / name)

    def _remove_others(self, kept: set[str | None]) -> None:
        for table in self.folder.glob("*.lance"):
            if table.stem not in kept:
                shutil.rmtree(table, ignore_errors=True)


@dataclass(frozen=True)
class Touched:
    """Files that changed while a table was being built."""

    digests: frozenset[str]

    def __contains__(self, file_id: object) -> bool:
        return isinstance(file_id, str) and _digest(file_id) in self.digests


def name_of(identifier: str) -> str:
    """A name on disk for an identifier, of which nothing is left that could be read as a path."""
    return _digest(identifier)


def _digest(identifier: str) -> str:
    return blake2b(identifier.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


async def _take(descriptor: int, kind: int) -> None:
    """Wait for a file lock without a thread: all threads waiting would leave none for who holds it."""
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            await asyncio.sleep(uniform(_POLL_S / 2, _POLL_S))
        else:
            return
