"""The stack seen from outside: replicas counted by the names of their processes, memory by their growth."""

import asyncio
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.bench.processes import Resident
from loadtest.figures import slope
from loadtest.replicas import Look, count, growth, story, total, watched, write

GENERATOR, ROUTER = "ray::ServeReplica:headrace:generator", "ray::ServeReplica:headrace:router"


def look(at: float, *processes: tuple[str, int, float]) -> Look:
    """The stack at one moment."""
    return Look(at, tuple(Resident(*each) for each in processes))


def test_replicas_are_counted_by_stage() -> None:
    assert count([GENERATOR, GENERATOR, ROUTER, "haproxy"]) == Counter(generator=2, router=1)


def test_only_stages_that_changed_are_told() -> None:
    looks = [look(at, (ROUTER, 1, 9.0), *((GENERATOR, pid, 9.0) for pid in range(2, 2 + many))) for at, many in enumerate((1, 3, 2))]
    assert story(looks) == ["generator   1 replica(s) at first, 3 at most, 2 at last"]


async def test_the_looks_are_written(tmp_path: Path) -> None:
    replica = await asyncio.create_subprocess_exec("bash", "-c", f"exec -a {ROUTER} sleep 60")
    try:
        async with watched(replica.pid, every_s=0.01) as looks:
            while not looks or looks[-1].replicas != Counter(router=1):
                await asyncio.sleep(0.01)
    finally:
        replica.kill()
        await replica.wait()
    assert looks[-1].mib > 0
    write(looks, tmp_path)
    head, *rows = (tmp_path / "replicas.csv").read_text().splitlines()
    assert head == "second,router"
    assert [row.split(",")[1] for row in rows] == [str(look.replicas["router"]) for look in looks]
    assert (tmp_path / "memory.csv").read_text().splitlines()[-1].split(",")[1:3] == [ROUTER, str(replica.pid)]


def test_growth_is_told_of_each_process_and_of_all() -> None:
    looks = [look(at, ("leaks", 1, 100 + 6 * at / 600), ("still", 2, 50.0)) for at in range(900)]
    assert growth(looks, 100.0) == {"leaks 1": pytest.approx(6), "still 2": 0}
    assert total(looks, 100.0) == pytest.approx(6)


def test_what_was_filled_once_is_no_leak_and_noise_neither() -> None:
    chance = Random(1)
    looks = [look(at, ("cache", 1, 100 + (20 if at > 40 else 0) + chance.gauss(0, 2))) for at in range(600)]
    assert growth(looks, 0.0)["cache 1"] == pytest.approx(0, abs=1)


def test_of_a_process_that_was_seen_seldom_nothing_is_told() -> None:
    looks = [look(at, ("short", 1, float(at))) for at in range(20)]
    assert growth(looks, 0.0) == {}
    assert total(looks, 0.0) is None


def test_a_slope_is_that_of_most_points() -> None:
    assert slope([0, 1, 2, 3, 4], [0, 2, 4, 6, 1000]) == 2
    assert slope([1, 1], [3, 4]) is None


@given(st.floats(-10, 10), st.floats(-10, 10))
def test_the_slope_of_a_line_is_its_own(rise: float, start: float) -> None:
    moments = [0.0, 1.0, 2.0, 5.0]
    assert slope(moments, [start + rise * each for each in moments]) == pytest.approx(rise, abs=1e-6)
    assert slope([1.0], [2.0]) is None
