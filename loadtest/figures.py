"""Percentiles and medians, exactly, from the values themselves."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the percentile of some values, interpolated linearly between neighbours; ValueError when there are none."""
    if not values:
        raise ValueError("no values")
    ranked = sorted(values)
    place = (len(ranked) - 1) * percent / 100
    low = int(place)
    high = min(low + 1, len(ranked) - 1)
    return ranked[low] + (ranked[high] - ranked[low]) * (place - low)


def jain(shares: Sequence[float]) -> float:
    """Return Jain's fairness index: 1 when all shares are equal, 1/n when one takes all (Jain, Chiu, Hawe 1984)."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 1.0


@dataclass(frozen=True, slots=True)
class Spread:
    """One figure over several runs."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Return the median of some runs and their extremes."""
        return cls(median(values), min(values), max(values))


def slope(places: Sequence[float], values: Sequence[float]) -> float | None:
    """Return the Theil-Sen slope of some points, the median of the slopes of all pairs; None where there is no pair.

    A few points far off, such as a cache that is filled in one step, move it little (Sen 1968).
    """
    pairs = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(zip(places, values, strict=True), 2) if a[0] != b[0]]
    return median(pairs) if pairs else None
