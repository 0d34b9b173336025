"""A process kept alive: started, listened to, and started again with back-off whenever it dies."""

import asyncio
import ctypes
import logging
import logging.handlers
import os
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

_LOG_BYTES = 4 << 20
_LOG_FILES = 3
_LINE_BYTES = 1 << 20
_PR_SET_PDEATHSIG = 1
_PROBE_S = 0.05


@dataclass(frozen=True)
class Backoff:
    """How long to wait before the next start: at once after a long life, then longer and longer."""

    first_s: float = 0.1
    most_s: float = 10
    calm_s: float = 10

    def pause(self, deaths: int, lived_s: float) -> float:
        """Seconds to wait after death number `deaths` (from 1) in a row, of a process that lived `lived_s`."""
        if lived_s >= self.calm_s:
            return 0
        return min(self.most_s, self.first_s * 2 ** (deaths - 1))


@dataclass(frozen=True)
class Command:
    """What to run: argument list and environment."""

    argv: tuple[str, ...]
    env: dict[str, str]


class Child:
    """Keeps one process running until `stop`.

    `probe` says whether it is up and is asked until it is; `hear` gets each line it prints, and returns True for lines that are not
    for the log; `bury` is awaited after each death, before the next start.
    """

    def __init__(
        self,
        name: str,
        command: Command,
        log: Path,
        *,
        probe: Callable[[], Awaitable[bool]],
        hear: Callable[[str], bool] = lambda line: False,
        bury: Callable[[], Awaitable[None]] | None = None,
        backoff: Backoff = Backoff(),
    ):
        self.name = name
        self.up = asyncio.Event()
        self.deaths = 0
        self._command, self._probe, self._hear, self._bury, self._backoff = command, probe, hear, bury, backoff
        self._log = _rotating(name, log)
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The process that lives now."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    def start(self) -> None:
        """Begin to keep it alive."""
        self._task = asyncio.create_task(self._keep(), name=f"keep {self.name}")

    def write(self, line: str) -> None:
        """Say something to its standard input; lost where it is dead."""
        if self._process is not None and self._process.stdin is not None and self._process.returncode is None:
            self._process.stdin.write(f"{line}\n".encode())

    async def stop(self, number: signal.Signals | None, grace_s: float, last: signal.Signals = signal.SIGKILL) -> bool:
        """End it, by `number` or else by closing its standard input; by `last` after `grace_s`. True where it went by itself."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        process, gone = self._process, True
        if process is not None and process.returncode is None:
            if number is not None:
                process.send_signal(number)
            elif process.stdin is not None:
                process.stdin.close()
            gone = await self._await_end(process, grace_s, last)
        self._log.info("ended")
        for handler in list(self._log.handlers):
            handler.close()
            self._log.removeHandler(handler)
        return gone

    async def _await_end(self, process: asyncio.subprocess.Process, grace_s: float, last: signal.Signals) -> bool:
        listening = asyncio.create_task(self._listen(process))
        try:
            await asyncio.wait_for(process.wait(), grace_s)
        except TimeoutError:
            process.send_signal(last)
            await process.wait()
            return False
        finally:
            listening.cancel()
        return True

    async def _keep(self) -> None:
        while True:
            begun = time.monotonic()
            self._process = process = await asyncio.create_subprocess_exec(
                *self._command.argv,
                env=self._command.env,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                limit=_LINE_BYTES,
                start_new_session=True,  # Ctrl-C is for the supervisor alone
                preexec_fn=die_with_parent,
            )
            self._log.info("started, pid %d", process.pid)
            await self._attend(process)
            self.deaths += 1
            lived_s = time.monotonic() - begun
            self._log.warning("died with %s after %.1f s", process.returncode, lived_s)
            if lived_s >= self._backoff.calm_s:
                self.deaths = 1
            if self._bury is not None:
                await self._bury()
            await asyncio.sleep(self._backoff.pause(self.deaths, lived_s))

    async def _attend(self, process: asyncio.subprocess.Process) -> None:
        tasks = [asyncio.create_task(self._rise()), asyncio.create_task(self._listen(process))]
        try:
            await process.wait()
        finally:
            self.up.clear()
            for task in tasks:
                task.cancel()

    async def _rise(self) -> None:
        while not await self._probe():
            await asyncio.sleep(_PROBE_S)
        self.up.set()

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None  # noqa: S101 — for the type checker: it was asked for
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:  # longer than a line may be: it is dropped
                continue
            if not line:
                return
            text = line.decode(errors="replace").rstrip()
            if not self._hear(text):
                self._log.info("%s", text)


def _rotating(name: str, path: Path) -> logging.Logger:
    log = logging.getLogger(f"headrace.child.{name}")
    log.setLevel(logging.INFO)
    log.propagate = False
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=_LOG_BYTES, backupCount=_LOG_FILES, delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log.addHandler(handler)
    return log


_libc = ctypes.CDLL(None, use_errno=True)  # loaded before any fork: a forked child should not search for libraries


def die_with_parent(number: signal.Signals = signal.SIGTERM) -> None:
    """For a forked child, before it runs its program: have the system end it by `number` when its parent ends, however that happens."""
    _libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() == 1:  # the parent went away in between
        os._exit(1)
