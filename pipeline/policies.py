"""How many replicas a stage should have: one decision for all stages, over the signals of each; sans-I/O, and without Ray.

Serve calls a policy several times a second with what the replicas reported, holds back what it wants for `upscale_delay_s` or
`downscale_delay_s`, and pickles this module by value for its controller: it imports nothing of ours.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Kind = Literal["load", "whole", "keep", "strain"]
"""What a signal says. `load`: replicas carry it together, so much each. `whole`: the same, and every replica reports all of it.
`keep`: as `load`, but it only keeps replicas that are there. `strain`: over the target somewhere, one more replica is wanted."""

ONGOING = "ongoing"
"""The one signal that Serve counts itself: calls under way, those that wait at their callers included."""

OVER = 1.1
"""More replicas come where the load is over that of those there are by a tenth."""
ROOM = 0.8
"""Fewer are enough where they would carry no more than this part of their target."""
USED = 0.5
"""Strain counts only where so much of the target is carried: more replicas do not make a slow backend faster. It keeps replicas from that
part of its own target on."""
STEP = 2
"""No decision more than doubles the number, and none takes away more than one."""


@dataclass(frozen=True)
class Signal:
    """A figure that replicas report, what one replica should carry of it, and what it says."""

    name: str
    target: float
    kind: Kind = "load"


@dataclass(frozen=True)
class Seen:
    """A stage at one moment: how many replicas it should have by now and may have, and what each running one reports.

    `readings` has a value a running replica, None of one that has not reported. `rested_s` is the time since the number last changed.
    """

    number: int
    running: int
    low: int
    high: int
    readings: Mapping[str, Sequence[float | None]]
    rested_s: float = math.inf


def decide(signals: Sequence[Signal], seen: Seen, pause_s: float = 0) -> int:
    """How many replicas are wanted, within the bounds; the same as there are where that is not known, or it is too soon to change."""
    return max(seen.low, min(seen.high, seen.number if seen.rested_s < pause_s else _wanted(signals, seen)))


def _wanted(signals: Sequence[Signal], seen: Seen) -> int:
    number = seen.number
    load = _most(signals, seen, "load", "whole")
    if load > OVER * number:
        return min(math.ceil(load), max(STEP * number, 1))
    strain = max((max(_known(signal, seen), default=0) / signal.target for signal in signals if signal.kind == "strain"), default=0)
    if strain > 1 and load >= USED * number:
        return number + (seen.running >= number)
    if strain > USED or not seen.running or any(None in seen.readings[signal.name] for signal in signals):
        return number
    enough = math.ceil(max(load, _most(signals, seen, "keep")) / ROOM)
    return max(enough, number - 1) if enough < number else number


def _most(signals: Sequence[Signal], seen: Seen, *kinds: Kind) -> float:
    """The replicas that the most demanding signal of these kinds would fill."""
    return max((_carried(signal, seen) / signal.target for signal in signals if signal.kind in kinds), default=0.0)


def _carried(signal: Signal, seen: Seen) -> float:
    values = _known(signal, seen)
    return max(values, default=0.0) if signal.kind == "whole" else sum(values)


def _known(signal: Signal, seen: Seen) -> list[float]:
    return [value for value in seen.readings.get(signal.name, ()) if value is not None]


class Sees(Protocol):
    """What is read of Serve's `AutoscalingContext`."""

    current_num_replicas: int
    target_num_replicas: int
    capacity_adjusted_min_replicas: int
    capacity_adjusted_max_replicas: int
    last_scale_up_time: float | None
    last_scale_down_time: float | None
    current_time: float | None

    @property
    def running_replicas(self) -> Sequence[Hashable]:
        """The replicas that run."""
        ...

    @property
    def total_num_requests(self) -> float:
        """Calls under way or waiting."""
        ...

    @property
    def aggregated_metrics(self) -> Mapping[str, Mapping[Hashable, float]] | None:
        """What replicas reported, by name and replica, averaged over the look-back period."""
        ...


class Policy:
    """The policy of one stage, as Serve calls it; `signals` are the arguments of `Signal`, as only JSON travels to the controller."""

    def __init__(self, signals: Sequence[tuple[str, float, Kind]], pause_s: float = 0):
        self._signals = [Signal(*signal) for signal in signals]
        self._pause_s = pause_s

    def __call__(self, ctx: Sees) -> tuple[int, dict[str, object]]:
        """The number of replicas wanted; it keeps no state, as Serve keeps the times of the last changes."""
        return decide(self._signals, seen(ctx, self._signals), self._pause_s), {}


def seen(ctx: Sees, signals: Sequence[Signal]) -> Seen:
    """What of Serve's context a decision is made of."""
    reported = ctx.aggregated_metrics or {}
    moved = max(ctx.last_scale_up_time or -math.inf, ctx.last_scale_down_time or -math.inf)
    return Seen(
        ctx.target_num_replicas,
        ctx.current_num_replicas,
        ctx.capacity_adjusted_min_replicas,
        ctx.capacity_adjusted_max_replicas,
        {
            signal.name: [ctx.total_num_requests]
            if signal.name == ONGOING
            else [reported.get(signal.name, {}).get(replica) for replica in ctx.running_replicas]
            for signal in signals
        },
        (ctx.current_time or 0) - moved,
    )
