"""A long mixed load: nothing may grow."""

import asyncio
import time

import psutil

from loadtest.chaos.kills import keys
from loadtest.chaos.scene import Scene
from loadtest.chaos.stack import PARTS, Stack
from loadtest.figures import slope

LOOK_S = 5.0
LONG_S = 600
"""Shorter runs say nothing about a slope of 1 MB in ten minutes; theirs is told and not judged."""


async def soak(scene: Scene) -> None:
    """`size` is in seconds; the first fifth is warm-up."""
    await asyncio.sleep(scene.size / 5)
    began = time.monotonic()
    times: list[float] = []
    sizes: list[float] = []
    files = _files(scene.stack)
    while time.monotonic() < began + 0.8 * scene.size:
        times.append(time.monotonic() - began)
        sizes.append(_rss(scene.stack))
        await asyncio.sleep(LOOK_S)
    scene.strike()
    rise = slope(times, sizes)
    limit = 1.0 if scene.size >= LONG_S else None
    scene.measure("memory (MB in 10 min)", float("inf") if rise is None else rise * 600 / 1e6, limit)
    scene.measure("more file descriptors", _files(scene.stack) - files, 20)
    scene.measure("keys of Valkey", await keys(scene.stack))


def _stages(stack: Stack) -> list[psutil.Process]:
    return [process for part, words in PARTS.items() if words.startswith("ray::ServeReplica") for process in stack.processes(part)]


def _rss(stack: Stack) -> float:
    return sum(process.memory_info().rss for process in _stages(stack))


def _files(stack: Stack) -> int:
    return sum(process.num_fds() for process in _stages(stack))
