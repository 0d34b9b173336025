"""How many replicas each stage has while a load is on, seen from outside: in the names of the processes."""

import asyncio
import csv
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from loadtest.bench.processes import names

LOOK_S = 1.0
"""Between two looks."""

REPLICA = re.compile(r"ray::ServeReplica:\w+:(\w+)")


def count(processes: Sequence[str]) -> Counter[str]:
    """Return the replicas of each stage among the names of some processes."""
    return Counter(found[1] for name in processes if (found := REPLICA.match(name)))


def story(counts: Sequence[Counter[str]]) -> list[str]:
    """Return a line for each stage that did not keep its number of replicas: how many at first, at most and at last."""
    stages = sorted({stage for each in counts for stage in each})
    lines: list[str] = []
    for stage in stages:
        series = [each[stage] for each in counts]
        if len(set(series)) > 1:
            lines.append(f"{stage:12s}{series[0]} replica(s) at first, {max(series)} at most, {series[-1]} at last")
    return lines


@asynccontextmanager
async def watched(root: int, file: Path) -> AsyncIterator[list[Counter[str]]]:
    """Look every second at the replicas below a process; the looks are in the list, and in a CSV file at the end."""
    seconds: list[float] = []
    counts: list[Counter[str]] = []

    async def look() -> None:
        began = time.monotonic()
        while True:
            counts.append(count(await asyncio.to_thread(names, root)))
            seconds.append(time.monotonic() - began)
            await asyncio.sleep(LOOK_S)

    task = asyncio.create_task(look())
    try:
        yield counts
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        stages = sorted({stage for each in counts for stage in each})
        with file.open("w", newline="") as out:
            rows = csv.writer(out)
            rows.writerow(["second", *stages])
            rows.writerows([f"{second:.1f}", *(each[stage] for stage in stages)] for second, each in zip(seconds, counts, strict=True))
