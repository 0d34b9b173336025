"""One injection of a fault: what it strikes, when, and what is measured around it."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from loadtest.bench.processes import Stuck
from loadtest.chaos.account import Goal, Measure, Trial, recovery
from loadtest.chaos.answer import Answer
from loadtest.chaos.load import STEADY, Load, Plan, loaded
from loadtest.chaos.stack import Stack, until
from loadtest.figures import percentile

WARM_S = 2.0
"""The load is on for so long before a fault strikes."""

CALM_S = 2.0
"""New answers have come without a failure for so long: the service is back."""

AWAY_S = 90.0
"""A service that does not come back within this is not waited for."""

RELEASE_S = 15.0
"""What is held for answers that nobody wants any more must be free after so long: the life of a lease and a half."""


@dataclass(slots=True)
class Scene:
    """What an injection works on."""

    stack: Stack
    load: Load
    size: int
    """How many clients or connections the fault consists of, where it does."""
    struck: float = field(default_factory=time.monotonic)
    measures: list[Measure] = field(default_factory=list[Measure])

    def strike(self) -> None:
        """The time that coming back is counted from is now."""
        self.struck = time.monotonic()

    def measure(self, name: str, value: float, limit: float | None = None, at_least: bool = False) -> None:
        """Note one more figure, and its bound."""
        self.measures.append(Measure(name, value, limit, at_least))

    def begun(self, since: float, until: float | None = None) -> list[Answer]:
        """Answers that were asked for within a span of time."""
        return [each for each in self.load.answers if each.sent >= since and (until is None or each.sent < until)]

    def ttft(self, percent: float, since: float, until: float | None = None) -> float:
        """A percentile of the time to the first token of answers asked for within a span, in seconds; Stuck where none came."""
        values = [each.ttft for each in self.begun(since, until) if each.ttft is not None]
        if not values:
            raise Stuck("no answer came")
        return percentile(values, percent)


Inject = Callable[[Scene], Awaitable[None]]
"""Does the damage, and puts right what does not come right by itself."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One row of the table."""

    number: str
    name: str
    inject: Inject
    expected: str
    goal: Goal
    count: int = 1
    """Repetitions that the list asks for."""
    plan: Plan = STEADY
    size: tuple[int, int] = (0, 0)
    """Clients or connections of one injection: usually, and in a full run."""


async def played(fault: Fault, stack: Stack, full: bool) -> Trial:
    """Inject a fault once under load, wait until new answers come again, and account for every answer."""
    await stack.ready()
    async with loaded(stack.load(fault.plan)) as load:
        await asyncio.sleep(WARM_S)
        scene = Scene(stack, load, fault.size[full])
        await fault.inject(scene)
        await _back(scene)
    back = recovery(load.attempts, scene.struck)
    scene.measure("orphans", await _left(stack.running), 0)
    scene.measure("slots held", await _left(stack.held), 0)
    return Trial(load.answers, back, scene.measures)


async def _back(scene: Scene) -> None:
    until_ = time.monotonic() + AWAY_S
    while time.monotonic() < until_:
        back = recovery(scene.load.attempts, scene.struck)
        if back is not None and time.monotonic() > scene.struck + back + CALM_S:
            return
        await asyncio.sleep(0.1)


async def _left(count: Callable[[], Awaitable[int]]) -> int:
    """What is left once it has had time to go."""

    async def none() -> bool:
        return await count() == 0

    try:
        await until(none, "release", RELEASE_S)
    except Stuck:
        return await count()
    return 0


async def beside(scene: Scene, seconds: float, percent: float = 99) -> tuple[float, float]:
    """Watch the load for so long; its TTFT percentile before the scene was struck and since, in seconds."""
    since = time.monotonic()
    await asyncio.sleep(seconds)
    return scene.ttft(percent, 0.0, scene.struck), scene.ttft(percent, since)


def sizes(*, usual: int, full: int) -> tuple[int, int]:
    """How large one injection is, usually and in a full run."""
    return usual, full


def worst(values: Sequence[float]) -> float:
    """The largest of some values; infinity where there are none, which meets no bound."""
    return max(values, default=float("inf"))
