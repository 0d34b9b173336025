"""The stack while a load is on, seen from outside: how many replicas each stage has, and the memory of every process."""

import asyncio
import csv
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from loadtest.bench.processes import Resident, residents
from loadtest.figures import slope

LOOK_S = 1.0
"""Between two looks."""

WINDOW_S = 600.0
"""Growth of memory is told as MiB in so long."""

LEAST_LOOKS = 30
"""Of a process, after the warm-up: the growth of one that was seen less often is not told."""

MOST_LOOKS = 300
"""That a slope is taken of, evenly drawn: its work grows with their square."""

REPLICA = re.compile(r"ray::ServeReplica:\w+:(\w+)")


@dataclass(frozen=True, slots=True)
class Look:
    """The stack at one moment, `at` in Unix seconds."""

    at: float
    processes: tuple[Resident, ...]

    @property
    def replicas(self) -> Counter[str]:
        """How many each stage has."""
        return count([each.name for each in self.processes])

    @property
    def mib(self) -> float:
        """Of all processes together."""
        return sum(each.mib for each in self.processes)


def count(processes: Sequence[str]) -> Counter[str]:
    """Return the replicas of each stage among the names of some processes."""
    return Counter(found[1] for name in processes if (found := REPLICA.match(name)))


def stages(looks: Sequence[Look]) -> list[str]:
    """Return the stages that had a replica at some time."""
    return sorted({stage for look in looks for stage in look.replicas})


def story(looks: Sequence[Look]) -> list[str]:
    """Return a line for each stage that did not keep its number of replicas: how many at first, at most and at last."""
    lines: list[str] = []
    for stage in stages(looks):
        series = [look.replicas[stage] for look in looks]
        if len(set(series)) > 1:
            lines.append(f"{stage:12s}{series[0]} replica(s) at first, {max(series)} at most, {series[-1]} at last")
    return lines


def growth(looks: Sequence[Look], since: float) -> dict[str, float]:
    """Return how many MiB each process grew in 10 minutes, by name and pid, from `since` (Unix seconds) on."""
    places: dict[str, list[tuple[float, float]]] = {}
    for look in looks:
        for each in look.processes if look.at >= since else ():
            places.setdefault(f"{each.name} {each.pid}", []).append((look.at, each.mib))
    found = {name: _grown(seen) for name, seen in places.items()}
    return {name: each for name, each in found.items() if each is not None}


def total(looks: Sequence[Look], since: float) -> float | None:
    """Return how many MiB the whole stack grew in 10 minutes; None where it was seen too seldom."""
    return _grown([(look.at, look.mib) for look in looks if look.at >= since])


def _grown(seen: Sequence[tuple[float, float]]) -> float | None:
    if len(seen) < LEAST_LOOKS:
        return None
    thin = seen[:: len(seen) // MOST_LOOKS + 1]
    grown = slope([at for at, _ in thin], [mib for _, mib in thin])
    return None if grown is None else WINDOW_S * grown


@asynccontextmanager
async def watched(root: int, every_s: float = LOOK_S) -> AsyncIterator[list[Look]]:
    """Look at the processes below one every second; the looks are in the list."""
    looks: list[Look] = []

    async def look() -> None:
        while True:
            looks.append(Look(time.time(), tuple(await asyncio.to_thread(residents, root))))
            await asyncio.sleep(every_s)

    task = asyncio.create_task(look())
    try:
        yield looks
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def write(looks: Sequence[Look], folder: Path) -> None:
    """Write replicas.csv and memory.csv, seconds from the first look."""
    names = stages(looks)
    with (folder / "replicas.csv").open("w", newline="") as out:
        rows = csv.writer(out)
        rows.writerow(["second", *names])
        rows.writerows([f"{look.at - looks[0].at:.1f}", *(look.replicas[name] for name in names)] for look in looks)
    with (folder / "memory.csv").open("w", newline="") as out:
        rows = csv.writer(out)
        rows.writerow(["second", "process", "pid", "mib"])
        rows.writerows(
            [f"{look.at - looks[0].at:.1f}", each.name, each.pid, f"{each.mib:.2f}"] for look in looks for each in look.processes
        )
