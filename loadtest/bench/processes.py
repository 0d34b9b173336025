"""Starts, measures and ends process trees."""

import asyncio
import os
import signal
import socket
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

STOP_S = 60.0
"""A stack that has not ended by itself after this long is killed, process by process, and that is an error."""


LOOK_S = 0.05
"""Between two looks at what a child has written."""


class Stuck(RuntimeError):
    """A target did not start, or left something behind."""


@dataclass(frozen=True)
class Launched:
    """A child process that writes its two outputs to files, so that it never waits for a reader."""

    process: Process
    out: Path
    err: Path

    @property
    def pid(self) -> int:
        """The root of the tree."""
        return self.process.pid

    async def line(self, words: str, within_s: float) -> str:
        """Wait for a whole line of stdout with these words in it; Stuck when the process ends before, or takes longer."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            ended = self.process.returncode is not None
            for line in self.out.read_text(errors="replace").splitlines(keepends=True):
                if words in line and line.endswith("\n"):
                    return line
            if ended:
                raise Stuck(f"the process ended with {self.process.returncode} before saying {words!r}:\n{self._tail()}")
            await asyncio.sleep(LOOK_S)
        raise Stuck(f"the process did not say {words!r} within {within_s:.0f} s:\n{self._tail()}")

    def _tail(self) -> str:
        lines = [line for path in (self.out, self.err) for line in path.read_text(errors="replace").splitlines()[-20:]]
        return "\n".join(lines)


async def launch(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> Launched:
    """Start a command with additions to this environment; its outputs go to two files in `folder`."""
    out, err = folder / "stdout", folder / "stderr"
    with out.open("w") as stdout, err.open("w") as stderr:
        process = await asyncio.create_subprocess_exec(*command, env=os.environ | environment, stdin=DEVNULL, stdout=stdout, stderr=stderr)
    return Launched(process, out, err)


async def stop(launched: Launched, number: signal.Signals, port: int) -> None:
    """End a tree; Stuck when a process or the port outlives it."""
    tree = _family(launched.pid)
    if launched.process.returncode is None:
        launched.process.send_signal(number)
    deadline = time.monotonic() + STOP_S
    left = tree
    while left and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
        left = [each for each in left if _alive(each)]
    for each in left:
        each.kill()
    await launched.process.wait()
    if left:
        raise Stuck(f"had to kill {[each.pid for each in left]} after {STOP_S:.0f} s")
    if listens(port):
        raise Stuck(f"port {port} is still taken")


def obey_sigterm() -> None:
    """Have SIGTERM cancel the current task, as Ctrl-C does, so that what it started is ended."""
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


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
class Resident:
    """A process and its resident memory."""

    name: str
    pid: int
    mib: float


def residents(root: int) -> list[Resident]:
    """Return a process and those below it, pages included that several of them share."""
    found: list[Resident] = []
    for process in _family(root):
        with suppress(psutil.NoSuchProcess):
            found.append(Resident(_name(process), process.pid, process.memory_info().rss / 2**20))
    return found


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


def busy_s() -> float:
    """Return the CPU seconds all processes of the machine have used since it started."""
    times = psutil.cpu_times()
    return times.user + times.nice + times.system + times.irq + times.softirq


def _name(process: psutil.Process) -> str:
    words = process.cmdline() or [process.name()]
    if words[0].startswith("ray::"):
        return words[0]
    names = [Path(word).name for word in words if not word.startswith("-")]
    return " ".join(names[:2]) if names and names[0].startswith("python") else names[0] if names else process.name()
