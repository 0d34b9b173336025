"""Replicas counted by the names of their processes."""

import asyncio
from collections import Counter
from pathlib import Path

from loadtest.replicas import count, story, watched


def test_replicas_are_counted_by_stage() -> None:
    names = ["ray::ServeReplica:headrace:generator", "ray::ServeReplica:headrace:generator", "ray::ServeReplica:headrace:router", "haproxy"]
    assert count(names) == Counter(generator=2, router=1)


def test_only_stages_that_changed_are_told() -> None:
    looks = [Counter(router=1, generator=1), Counter(router=1, generator=3), Counter(router=1, generator=2)]
    assert story(looks) == ["generator   1 replica(s) at first, 3 at most, 2 at last"]


async def test_the_looks_are_written(tmp_path: Path) -> None:
    replica = await asyncio.create_subprocess_exec("bash", "-c", "exec -a ray::ServeReplica:headrace:router sleep 60")
    try:
        async with watched(replica.pid, tmp_path / "replicas.csv") as looks:
            while not looks or looks[-1] != Counter(router=1):
                await asyncio.sleep(0.01)
    finally:
        replica.kill()
        await replica.wait()
    head, *rows = (tmp_path / "replicas.csv").read_text().splitlines()
    assert head == "second,router"
    assert [row.split(",")[1] for row in rows] == [str(look["router"]) for look in looks]
