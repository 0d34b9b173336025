"""A plan fixes, before the first byte, everything one answer will do: words, times and fault."""

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate
from math import exp
from random import Random

from loadtest.simulator.faults import MIDSTREAM, Fault, Faults, Kind

LONGEST = 100_000
"""Tokens: the longest answer, so that no request makes the simulator run out of memory."""


class BadModel(ValueError):
    """The model suffix asks for something the simulator does not know."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A quantity with a median, and a log-normal spread around it when sigma is not 0."""

    median: float
    sigma: float = 0.0

    def draw(self, random: Random) -> float:
        """Return one value; a spread of 0 takes no draw."""
        return self.median * exp(random.gauss(0.0, self.sigma)) if self.sigma else self.median


@dataclass(frozen=True, slots=True)
class Profile:
    """How the simulated model behaves on average: seconds to the first token, between tokens, and tokens."""

    ttft_s: Spread
    itl_s: Spread
    tokens: Spread
    faults: Faults
    seed: int


@dataclass(frozen=True, slots=True)
class Wish:
    """What one request asks for through its model suffix, for example `sim@tokens=30,cut=10`."""

    echo: bool = False
    ttft_s: float | None = None
    itl_s: float | None = None
    tokens: int | None = None
    fault: Fault | None = None
    times: int | None = None
    """The fault strikes only so many requests of the same marker (or model name), then no more."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One answer: its words, when each is due (seconds after the request), why it ends and what goes wrong."""

    words: tuple[str, ...] | int
    """The words themselves, or how many of the numbered ones (w0 w1 w2 …)."""
    due_s: tuple[float, ...]
    finish: str
    fault: Fault | None

    @property
    def tokens(self) -> int:
        """The number of words."""
        return len(self.due_s)


def wish(model: str) -> Wish:
    """Read the part after `@` of a model name; BadModel when it is not understood."""
    asked = Wish()
    _, _, suffix = model.partition("@")
    for item in filter(None, suffix.split(",")):
        name, _, value = item.partition("=")
        try:
            asked = _granted(asked, name, value)
        except ValueError as error:
            raise BadModel(f"cannot read {item!r} in model {model!r}") from error
    return asked


def _granted(asked: Wish, name: str, value: str) -> Wish:
    match name:
        case "echo":
            return replace(asked, echo=True)
        case "ttft":
            return replace(asked, ttft_s=float(value) / 1000)
        case "itl":
            return replace(asked, itl_s=float(value) / 1000)
        case "tokens":
            return replace(asked, tokens=int(value))
        case "times":
            return replace(asked, times=int(value))
        case Kind.ERROR:
            status, _, seconds = value.partition(":")
            fault = Fault(Kind.ERROR, 0, int(status or 503), float(seconds) if seconds else None)
            return replace(asked, fault=fault)
        case Kind.HANG:
            return replace(asked, fault=Fault(Kind.HANG))
        case _:
            kind = Kind(name)
            return replace(asked, fault=Fault(kind, int(value or 1)))


def draw(profile: Profile, number: int, asked: Wish, limit: int | None, echoed: str) -> Plan:
    """Return the plan of request `number`, the same one for the same seed, profile and request."""
    random = Random(f"{profile.seed}:{number}")
    words: tuple[str, ...] | int
    if asked.echo:
        words = split(echoed)[:LONGEST]
        full = len(words)
    else:
        wanted = asked.tokens if asked.tokens is not None else round(profile.tokens.draw(random))
        full = words = min(max(wanted, 1), LONGEST)
    count = full if limit is None else max(min(full, limit), 0)
    fault = profile.faults.draw(random, count)
    ttft = Spread(asked.ttft_s) if asked.ttft_s is not None else profile.ttft_s
    gap = Spread(asked.itl_s) if asked.itl_s is not None else profile.itl_s
    return Plan(
        words[:count] if isinstance(words, tuple) else count,
        _times(ttft, gap, count, random),
        "stop" if count == full else "length",
        _within(asked.fault or fault, count),
    )


def after(made: Plan, said: int) -> Plan:
    """Return what is left of a plan once so many of its words have been said."""
    if not said:
        return made
    words = tuple(made.words[said:]) if isinstance(made.words, tuple) else tuple(numbered(n) for n in range(said, made.words))
    return replace(made, words=words, due_s=made.due_s[: len(words)])


@lru_cache(maxsize=8192)
def numbered(index: int) -> str:
    """Return word `index` of the numbered text `w0 w1 w2 …`, with its leading space."""
    return f" w{index}" if index else "w0"


def split(text: str) -> tuple[str, ...]:
    """Cut a text into words that carry their leading white space; joined again they are the text."""
    return tuple(re.findall(r"\s*\S+|\s+\Z", text))


def _times(ttft: Spread, gap: Spread, count: int, random: Random) -> tuple[float, ...]:
    if count == 0:
        return ()
    first = ttft.draw(random)
    if gap.sigma == 0:
        return tuple(first + gap.median * index for index in range(count))
    return tuple(accumulate((gap.draw(random) for _ in range(count - 1)), initial=first))


def _within(fault: Fault | None, count: int) -> Fault | None:
    if fault is None or fault.kind not in MIDSTREAM:
        return fault
    return replace(fault, after=min(fault.after, count))
