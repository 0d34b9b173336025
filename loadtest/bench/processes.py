"""Starts, measures and ends process trees."""

import asyncio
import os
import signal
import socket
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

STOP_S = 60.0
"""A stack that has not ended by itself after this long is killed, process by process, and that is an error."""


class Stuck(RuntimeError):
    """A target did not start, or left something behind."""


@dataclass(frozen=True)
class Launched:
    """A child process whose stdout is read line by line."""

    process: Process
    stdout: asyncio.StreamReader
    log: Path

    @property
    def pid(self) -> int:
        """The root of the tree."""
        return self.process.pid

    async def line(self, word: str) -> str:
        """Return the next line of stdout with `word` in it; Stuck when the process ends before."""
        while raw := await self.stdout.readline():
            text = raw.decode(errors="replace")
            with self.log.open("a") as log:
                log.write(text)
            if word in text.lower():
                return text
        tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-30:])
        raise Stuck(f"the process ended before saying {word!r}:\n{tail}")

    async def drain(self) -> None:
        """Read and drop stdout, so that the process never blocks on it."""
        while await self.stdout.read(65536):
            pass


async def launch(command: Sequence[str], environment: Mapping[str, str], log: Path) -> Launched:
    """Start a command with additions to this environment; its stderr goes to `log`."""
    with log.open("a") as stderr:
        process = await asyncio.create_subprocess_exec(*command, env=os.environ | environment, stdout=PIPE, stderr=stderr, limit=2**20)
    if process.stdout is None:
        raise Stuck("a child without stdout")
    return Launched(process, process.stdout, log)


async def stop(launched: Launched, number: signal.Signals, port: int) -> None:
    """End a tree; Stuck when a process or the port outlives it."""
    tree = _family(launched.pid)
    if launched.process.returncode is None:
        launched.process.send_signal(number)
    draining = asyncio.create_task(launched.drain())
    deadline = time.monotonic() + STOP_S
    left = tree
    while left and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
        left = [each for each in left if _alive(each)]
    for each in left:
        each.kill()
    await launched.process.wait()
    await draining
    if left:
        raise Stuck(f"had to kill {[each.pid for each in left]} after {STOP_S:.0f} s")
    if listens(port):
        raise Stuck(f"port {port} is still taken")


def listens(port: int) -> bool:
    """True when somebody answers on a port of the loopback."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _family(root: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(root)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


@dataclass(frozen=True, slots=True)
class Spent:
    """CPU seconds of one process, with those of its ended children beside."""

    parent: int
    own: float
    children: float


class Tree:
    """The processes below a root, those included that have been seen in it and now have another parent."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._known: dict[tuple[int, float], psutil.Process] = {}

    def _members(self) -> list[psutil.Process]:
        for process in _family(self._root):
            try:
                self._known.setdefault((process.pid, process.create_time()), process)
            except psutil.NoSuchProcess:
                continue
        return list(self._known.values())

    def spent(self) -> dict[int, Spent]:
        """Return the CPU time of every living process, by pid."""
        found: dict[int, Spent] = {}
        for process in self._members():
            try:
                times = process.cpu_times()
                parent = process.ppid()
            except psutil.NoSuchProcess:
                continue
            children = times.children_user + times.children_system
            found[process.pid] = Spent(parent, times.user + times.system, children)
        return found

    def memory(self) -> list[tuple[str, float]]:
        """Return (name, MiB) of every process, largest first; proportional set size, so that sharing counts once."""
        sizes: list[tuple[str, float]] = []
        for process in self._members():
            try:
                sizes.append((_name(process), process.memory_full_info().pss / 2**20))
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return sorted(sizes, key=lambda each: -each[1])


def elapsed(before: Mapping[int, Spent], after: Mapping[int, Spent]) -> float:
    """Return the CPU seconds a tree used between two samples, its ended processes included where a parent reaped them.

    A parent adds the whole life of a reaped child to its own account, so what the child had used before the first
    sample is taken off again.
    """
    total = sum(each.own + each.children for each in after.values())
    total -= sum(each.own + each.children for pid, each in before.items() if pid in after)
    for pid, gone in before.items():
        if pid in after:
            continue
        life = gone.own + gone.children
        if gone.parent in after and gone.parent in before:
            grown = after[gone.parent].children - before[gone.parent].children
            total -= min(life, max(grown, 0.0))
    return total


def _name(process: psutil.Process) -> str:
    words = process.cmdline() or [process.name()]
    if words[0].startswith("ray::"):
        return words[0]
    names = [Path(word).name for word in words if not word.startswith("-")]
    return " ".join(names[:2]) if names and names[0].startswith("python") else names[0] if names else process.name()
