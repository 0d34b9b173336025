"""A simulation of admission and autoscaling under load: events in order of time, from a seed, without a clock or a socket.

Admission is `admission.lua`'s for one tenant: as many answers at once as there is room for, a queue in front with a bound on its length,
and a refusal at once where the estimated wait is longer than anybody may wait. Replicas of the generator follow its policy
(`pipeline.policies`) as Serve applies it: the calls averaged over a look-back, and a number wanted for a delay before it comes. It models
neither fair shares between tenants nor how the room of a backend is felt for.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from math import exp
from random import Random

from pipeline.planning.costs import Costs
from pipeline.planning.plan import FULL
from pipeline.policies import ONGOING, Seen, Signal, decide

Rule = Callable[[float, int], int]
"""Ongoing calls of a stage, those that wait included, and its replicas; how many replicas it should have."""

LOOK_S = 2.0
"""Between two looks at what is ongoing (`metrics_interval_s`)."""
LOOK_BACK_S = 5.0
SMOOTHING = 0.2
"""Weight of the newest answer in the estimate of how long a slot is held."""
FIRST_HOLD_S = 1.0
"""That estimate before any answer has ended."""
SPREAD = 0.5
"""Sigma of the log-normal lengths of answers."""
BEFORE = ("gateway", "embedder", "retriever", "router", "generator")
"""Stages that a request passes before its backend is asked."""
BUSIEST = 0.95
"""Of a core: what is busier is counted as this busy, or its queue would never end."""


MANY = 10_000
"""Replicas that no policy goes beyond; `World` has the bounds of its stage."""


def target_ongoing(target: float) -> Rule:
    """The policy in force for a stage whose replicas carry `target` ongoing calls each."""
    signals = (Signal(ONGOING, target),)
    return lambda ongoing, replicas: decide(signals, Seen(replicas, replicas, 1, MANY, {ONGOING: [ongoing]}))


@dataclass(frozen=True, slots=True)
class Stage:
    """So many requests a second for so long."""

    seconds: float
    requests_per_s: float


@dataclass(frozen=True, slots=True)
class World:
    """What is simulated."""

    stages: Sequence[Stage]
    output_tokens: float = 200
    ttft_s: float = 0.2
    """Of a backend."""
    itl_s: float = 0.02
    pipeline_s: float = 0.05
    """CPU of a request before its backend is asked."""
    gateways: int = 1
    token_s: float = 0.0001
    """CPU of a token in the gateway."""
    slots_each: int = 256
    """Answers that one replica of the generator takes at once."""
    rule: Rule = field(default_factory=lambda: target_ongoing(128))
    first: int = 1
    """Replicas at the beginning."""
    least: int = 1
    most: int = 100
    upscale_delay_s: float = 3
    downscale_delay_s: float = 60
    start_s: float = 5
    """How long a replica takes to start."""
    max_waiting: int = 512
    wait_s: float = 60
    seed: int = 1


@dataclass(slots=True)
class Story:
    """What happened; times are seconds from the beginning."""

    replicas: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])
    """Those that serve, at each change."""
    ttft_s: list[float] = field(default_factory=list[float])
    waits_s: list[float] = field(default_factory=list[float])
    asked: int = 0
    refused: int = 0
    answered: int = 0
    most_at_once: int = 0
    most_waiting: int = 0

    @staticmethod
    def percentiles(values: Sequence[float]) -> dict[int, float]:
        """The 50th, 95th and 99th, of the values themselves; none where there are none."""
        ranked = sorted(values)
        return {percent: ranked[min(len(ranked) * percent // 100, len(ranked) - 1)] for percent in (50, 95, 99) if ranked}


class Simulation:
    """One run."""

    def __init__(self, world: World) -> None:
        self._world, self._random, self.story = world, Random(world.seed), Story()
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._number = 0
        self._running = 0
        self._line: deque[float] = deque()
        self._hold_s = FIRST_HOLD_S
        self._replicas = self._ordered = min(max(world.first, world.least), world.most)
        self._looks: deque[tuple[float, int]] = deque()
        self._up_since: float | None = None
        self._down_since: float | None = None
        self._end = sum(stage.seconds for stage in world.stages)

    def run(self) -> Story:
        """Play all stages, and the end of what is open then."""
        self.story.replicas.append((0.0, self._replicas))
        self._at(0.0, self._arrive)
        self._at(LOOK_S, self._look)
        while self._events:
            now, _, act = heappop(self._events)
            act(now)
        return self.story

    def _at(self, when: float, act: Callable[[float], None]) -> None:
        self._number += 1
        heappush(self._events, (when, self._number, act))

    def _rate(self, now: float) -> float:
        for stage in self._world.stages:
            now -= stage.seconds
            if now < 0:
                return stage.requests_per_s
        return 0.0

    def _arrive(self, now: float) -> None:
        rate = self._rate(now)
        if now >= self._end:
            return
        self._at(now + self._random.expovariate(rate) if rate else now + 0.1, self._arrive)
        if rate:
            self.story.asked += 1
            self._ask(now)

    def _ask(self, now: float) -> None:
        """`check_queue` of admission.lua."""
        room = self._replicas * self._world.slots_each
        if self._running < room and not self._line:
            self._begin(now, now)
            return
        estimate = (len(self._line) + 1) * self._hold_s / max(room, 1)
        if len(self._line) >= self._world.max_waiting or estimate > self._world.wait_s:
            self.story.refused += 1
            return
        self._line.append(now)
        self.story.most_waiting = max(self.story.most_waiting, len(self._line))

    def _begin(self, now: float, asked: float) -> None:
        world, story = self._world, self.story
        self._running += 1
        story.most_at_once = max(story.most_at_once, self._running)
        tokens = max(self._random.lognormvariate(0.0, SPREAD) * world.output_tokens, 1.0)
        busy = min(self._running * world.token_s / world.itl_s / max(world.gateways, 1), BUSIEST * FULL)
        ready = world.pipeline_s / (1 - busy) + world.ttft_s
        story.waits_s.append(now - asked)
        story.ttft_s.append(now - asked + ready)
        held = ready + tokens * world.itl_s
        self._at(now + held, lambda when: self._finish(when, held))

    def _finish(self, now: float, held: float) -> None:
        self._running -= 1
        self.story.answered += 1
        self._hold_s += (held - self._hold_s) * SMOOTHING
        self._admit(now)

    def _admit(self, now: float) -> None:
        while self._line and self._running < self._replicas * self._world.slots_each:
            self._begin(now, self._line.popleft())

    def _look(self, now: float) -> None:
        """Serve's autoscaler: average, ask the rule, wait for the delay, act."""
        if now < self._end or self._running:
            self._at(now + LOOK_S, self._look)
        self._looks.append((now, self._running + len(self._line)))
        while self._looks[0][0] < now - LOOK_BACK_S:
            self._looks.popleft()
        world = self._world
        ongoing = sum(count for _, count in self._looks) / len(self._looks)
        wanted = min(max(world.rule(ongoing, self._ordered), world.least), world.most)
        self._up_since = (self._up_since if self._up_since is not None else now) if wanted > self._ordered else None
        self._down_since = (self._down_since if self._down_since is not None else now) if wanted < self._ordered else None
        if self._up_since is not None and now - self._up_since >= world.upscale_delay_s:
            self._ordered, self._up_since = wanted, None
            self._at(now + world.start_s, lambda when: self._serve(when, wanted))
        elif self._down_since is not None and now - self._down_since >= world.downscale_delay_s:
            self._ordered, self._down_since = wanted, None
            self._serve(now, wanted)

    def _serve(self, now: float, count: int) -> None:
        """So many replicas serve from now on; one that goes finishes what it has begun."""
        self._replicas = min(count, self._ordered) if count > self._replicas else count
        self.story.replicas.append((now, self._replicas))
        self._admit(now)


def world(streams: float, output_tokens: float, retrieval: bool, gateways: int, costs: Costs) -> World:
    """A world in which a third of the streams are open for a minute, then all of them, then a third again.

    The rates are those that hold so many open with the backend's times; the bounds of the stack are for the caller to set.
    """
    frame = World((), output_tokens=output_tokens)
    held_s = frame.ttft_s + output_tokens * exp(SPREAD**2 / 2) * frame.itl_s
    rate = streams / held_s
    return replace(
        frame,
        stages=(Stage(60, rate / 3), Stage(60, rate), Stage(60, rate / 3)),
        pipeline_s=sum(costs.parts[name].busy_s(0, 0, retrieval) for name in BEFORE),
        gateways=gateways,
        token_s=costs.parts["gateway"].output_token_s,
    )
