"""Whether a canary's variant does worse than its control, told at any time and as often as one looks; sans-I/O.

Each signal is bet on: a wealth begins at 1 and is multiplied, at each observation, by a factor whose mean is at most 1 where the variant
is no worse. By Ville's inequality (Ville, 1939) the chance that such a wealth ever reaches 1/alpha is at most alpha, however often it is
looked at (e-processes; Shafer, JRSS-A 184, 2021; Ramdas, Grünwald, Vovk and Shafer, Statistical Science 38, 2023). A mean of wealths is
one as well, so that several ways to bet share a stake; so is the product of those that independent processes have made.

What is bet on is whose an observation is, as the draw of a turn's side is what is random: an event, such as a failure, is the variant's as
often as its share of the turns says (Wald's likelihood ratio of two Bernoulli sides, given that there was an event). So is a measure, such
as the time to the first token, whatever its rank among the last of both sides, and the bet leans as that rank does: times may grow, burst
and hang on each other as they like. What is assumed is that each turn's side was drawn anew, by that share: of a session that stays on one
side, a trait of its own can look like one of the side.
"""

import math
from collections import deque
from random import Random
from typing import Literal

import msgspec

from deployments.core.choices import Arm

ALPHA = 0.005
"""The chance, at most, that one signal ends a variant that is no worse."""
ENOUGH = math.log(1 / ALPHA)
"""The log-wealth that ends a canary."""
ODDS = (2.0, 5.0, 20.0, 100.0)
"""How many times as likely an event may be for a turn of the variant's; a stake on each."""
LEANS = (2.0, 4.0, 10.0)
"""How many times as likely the highest of all values may be for a turn of the variant's, and the lowest for one of the control's."""
LAST = 40
"""Values of both sides that one is ranked among, at most."""

SIGNALS: dict[str, Literal["event", "measure"]] = {"errors": "event", "ttft": "measure"}
"""What is watched. Another signal is another line here, and whoever observes it."""


class Tally(msgspec.Struct, frozen=True, array_like=True):
    """What one process has seen of a canary: log-wealth by signal, and turns and events of both sides."""

    wealth: dict[str, float]
    turns: tuple[int, int]
    events: dict[str, tuple[int, int]]


class Wealth:
    """A stake on each of several ways to bet, as logarithms."""

    def __init__(self, ways: int):
        self._logs = [-math.log(ways)] * ways

    def take(self, factors: list[float]) -> None:
        """Multiply each stake by its factor, which is over 0."""
        self._logs = [log + math.log(factor) for log, factor in zip(self._logs, factors, strict=True)]

    @property
    def log(self) -> float:
        """The logarithm of all stakes together."""
        most = max(self._logs)
        return most + math.log(sum(math.exp(log - most) for log in self._logs))


class Events:
    """Events of one kind, such as failures."""

    def __init__(self) -> None:
        self.wealth = Wealth(len(ODDS))
        self.counts = [0, 0]

    def happen(self, variant: bool, share: float) -> None:
        """Take an event; `share` is the variant's of the turns. To say more than that share only makes the bet more careful."""
        self.counts[variant] += 1
        self.wealth.take([_factor(variant, share, odds) for odds in ODDS])


class Ranks:
    """Values of which more is worse, such as times."""

    def __init__(self, random: Random):
        self.wealth = Wealth(len(LEANS))
        self._random = random
        self._last: deque[float] = deque(maxlen=LAST)

    def take(self, variant: bool, value: float, share: float) -> None:
        """Take a value; `share` is the probability with which the turn was to be the variant's."""
        under = sum(map(value.__gt__, self._last))
        tied = self._last.count(value)
        rank = (under + self._random.random() * (tied + 1)) / (len(self._last) + 1)  # 0..1, without a look at the side
        self._last.append(value)
        self.wealth.take([_factor(variant, share, lean ** (2 * rank - 1)) for lean in LEANS])


def _factor(variant: bool, share: float, odds: float) -> float:
    """What a bet on the variant pays at such odds; 1 in the mean where its share is `share`."""
    return (odds if variant else 1.0) / (1 + share * (odds - 1))


class Evidence:
    """All that one process sees of one canary."""

    def __init__(self, random: Random):
        self._turns = [0, 0]
        self._events = {name: Events() for name, kind in SIGNALS.items() if kind == "event"}
        self._ranks = {name: Ranks(random) for name, kind in SIGNALS.items() if kind == "measure"}

    def turn(self, arm: Arm) -> None:
        """Count a turn that has ended."""
        self._turns[arm == "variant"] += 1

    def event(self, signal: str, arm: Arm, weight: float) -> None:
        """Take an event of a turn that is counted; `weight` is the share of turns that the variant is meant to have."""
        share = max(weight, self._turns[1] / max(sum(self._turns), 1))
        self._events[signal].happen(arm == "variant", min(share, 1.0))

    def measure(self, signal: str, arm: Arm, value: float, weight: float) -> None:
        """Take a value of a turn that went well; `weight` is the probability with which that was to be the variant's."""
        self._ranks[signal].take(arm == "variant", value, weight)

    @property
    def tally(self) -> Tally:
        """What is seen so far."""
        wealth = {name: one.wealth.log for name, one in (*self._events.items(), *self._ranks.items())}
        events = {name: (one.counts[0], one.counts[1]) for name, one in self._events.items()}
        return Tally(wealth, (self._turns[0], self._turns[1]), events)


def together(tallies: list[Tally]) -> Tally:
    """What several processes have seen."""
    turns = [one.turns for one in tallies]
    wealth = {name: sum(one.wealth.get(name, 0.0) for one in tallies) for name in SIGNALS}
    events = {name: _sum([one.events.get(name, (0, 0)) for one in tallies]) for name, kind in SIGNALS.items() if kind == "event"}
    return Tally(wealth, _sum(turns), events)


def worse(tally: Tally) -> str | None:
    """The signal by which the variant does worse, if one tells."""
    return next((name for name in SIGNALS if tally.wealth.get(name, 0.0) >= ENOUGH), None)


def _sum(pairs: list[tuple[int, int]]) -> tuple[int, int]:
    return sum(control for control, _ in pairs), sum(variant for _, variant in pairs)
