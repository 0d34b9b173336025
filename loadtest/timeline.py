"""A run second by second: what was asked, what became of it, how long the first tokens took."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from loadtest.figures import percentile
from loadtest.journal import Row
from loadtest.slo import ANSWERS, REFUSED

MOST = 240
"""Bins of one run at most; a longer one has wider bins."""


@dataclass(frozen=True, slots=True)
class Bin:
    """Some seconds of a run; counts are a second, by when the requests were due, but `good`, which is by when they ended."""

    second: float
    offered: float
    admitted: float
    refused: float
    failed: float
    good: float
    ttft_p50: float | None
    ttft_p95: float | None
    ttft_p99: float | None


def bins(rows: Sequence[Row]) -> list[Bin]:
    """Return the bins of a run, the measuring of the peak included, at negative seconds."""
    if not rows:
        return []
    load = [row.t_scheduled for row in rows if row.stage >= 0] or [row.t_scheduled for row in rows]
    begun = min(load)
    places = [row.t_scheduled - begun for row in rows]
    ends = [place + row.e2e_ms / 1000 for place, row in zip(places, rows, strict=True)]
    width = max(ceil((max(ends) - min(places)) / MOST), 1)
    due: dict[int, list[Row]] = defaultdict(list)
    good: dict[int, int] = defaultdict(int)
    for place, end, row in zip(places, ends, rows, strict=True):
        due[int(place // width)].append(row)
        good[int(end // width)] += row.error_code is None
    return [_bin(index * width, width, due[index], good[index]) for index in range(min(due), max(*due, *good) + 1)]


def _bin(second: float, width: float, rows: Sequence[Row], good: int) -> Bin:
    refused = sum(row.status in REFUSED for row in rows)
    failed = sum(row.error_code is not None for row in rows) - refused
    first = [row.ttft_ms for row in rows if row.kind in ANSWERS and row.ttft_ms is not None]
    p50, p95, p99 = (percentile(first, percent) if first else None for percent in (50, 95, 99))
    return Bin(second, len(rows) / width, (len(rows) - refused) / width, refused / width, failed / width, good / width, p50, p95, p99)
