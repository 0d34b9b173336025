"""Faults say how an answer of the simulator goes wrong, drawn from a seed or asked for by name."""

from dataclasses import dataclass
from enum import StrEnum
from random import Random


class Kind(StrEnum):
    """The ways an answer can fail, named as in the model suffix and on the command line."""

    ERROR = "error"
    """An HTTP error status instead of an answer."""
    HANG = "hang"
    """Silence before the first byte, until the client leaves."""
    STALL = "stall"
    """Silence after some tokens, until the client leaves."""
    CUT = "cut"
    """The connection is closed after some tokens, without an end of body."""
    MALFORMED = "malformed"
    """One event in the middle is not JSON; the answer then goes on."""


MIDSTREAM = frozenset({Kind.STALL, Kind.CUT, Kind.MALFORMED})


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault, and the number of tokens that are sent before it strikes."""

    kind: Kind
    after: int = 0
    status: int = 503
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Faults:
    """The probability of each kind of fault; together they must not exceed 1."""

    error: float = 0.0
    hang: float = 0.0
    stall: float = 0.0
    cut: float = 0.0
    malformed: float = 0.0
    status: int = 503
    retry_after_s: float | None = None

    def __post_init__(self) -> None:
        chances = [getattr(self, kind) for kind in Kind]
        if min(chances) < 0 or sum(chances) > 1:
            raise ValueError("fault probabilities must be at least 0 and together at most 1")

    def draw(self, random: Random, tokens: int) -> Fault | None:
        """Return the fault of one request or None; it always takes two draws, so that seeds stay comparable."""
        pick, place = random.random(), random.random()
        for kind in Kind:
            pick -= getattr(self, kind)
            if pick < 0:
                after = 1 + int(place * max(tokens - 1, 1)) if kind in MIDSTREAM else 0
                return Fault(kind, after, self.status, self.retry_after_s)
        return None
