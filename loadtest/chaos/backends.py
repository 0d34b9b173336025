"""Faults of the backend that is asked first; there is a good one behind it."""

import asyncio
import time

from loadtest.chaos.answer import Answer
from loadtest.chaos.proxy import NONE, End, Trouble
from loadtest.chaos.scene import Inject, Scene, worst
from loadtest.chaos.stack import FIRST_S
from loadtest.figures import percentile

BAD_S = 8.0
"""How long a backend is bad."""

AMPLIFIED = 1.1
"""Calls of backends for one answer, at most."""

CUT_BYTES = 6000
"""Some twenty events of the simulator."""


def spoilt(*, timed: bool = False, **faults: float) -> Inject:
    """The simulator has these faults for some seconds; `timed` bounds how much later than its timeout the other one speaks."""

    async def inject(scene: Scene) -> None:
        calls = await _calls(scene)
        since = time.monotonic()
        await scene.stack.spoil(**faults)
        try:
            await asyncio.sleep(BAD_S)
        finally:
            await scene.stack.spoil()
            scene.strike()
        if timed:
            await asyncio.sleep(2)
            late = [_waited(each) - FIRST_S for each in scene.begun(since, scene.struck)]
            usual = percentile([_waited(each) for each in scene.begun(0.0, since)], 50)
            scene.measure("longest failover behind the timeout (s)", worst(late) - usual, 0.1)
        await _amplification(scene, calls)

    return inject


def _waited(answer: Answer) -> float:
    """The longest its reader had to wait for text."""
    return max(answer.ttft or 0.0, answer.longest_gap_s)


async def refused(scene: Scene) -> None:
    """Nobody listens where the backend was."""
    calls, since = await _calls(scene), time.monotonic()
    await scene.stack.proxy.refuse()
    try:
        await asyncio.sleep(BAD_S)
    finally:
        await scene.stack.proxy.accept()
        scene.strike()
    before = scene.ttft(95, 0.0, since)
    beside = scene.ttft(95, since + BAD_S / 2, scene.struck - 0.5)
    scene.measure("added TTFT p95, breaker open (s)", beside - before, 0.05)
    await _amplification(scene, calls)


def cut_on_the_wire(end: End | None, garbage: bytes = b"") -> Inject:
    """Connections of the backend break, are half-closed or carry garbage within an answer."""

    async def inject(scene: Scene) -> None:
        calls = await _calls(scene)
        scene.stack.proxy.down = Trouble(after=CUT_BYTES, end=end, garbage=garbage)
        scene.stack.proxy.cut()  # what is pooled was made before
        try:
            await asyncio.sleep(BAD_S)
        finally:
            scene.stack.proxy.down = NONE
            scene.stack.proxy.cut()
            scene.strike()
        await _amplification(scene, calls)

    return inject


async def _calls(scene: Scene) -> tuple[int, int]:
    """Calls that reached a backend, and answers that were asked for, so far."""
    stats = [await scene.stack.stats(each) for each in (scene.stack.bad, scene.stack.good)]
    return sum(each["total"] for each in stats), len(scene.load.answers)


async def _amplification(scene: Scene, before: tuple[int, int]) -> None:
    calls, answers = await _calls(scene)
    scene.measure("calls an answer", (calls - before[0]) / max(answers - before[1], 1), AMPLIFIED)
