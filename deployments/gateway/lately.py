"""What one gateway has seen within the last minute, for whoever asks how things are now; nothing else keeps it."""

import time
from collections import deque
from collections.abc import Callable

import msgspec

from deployments.core.telemetry import CACHE_LOOKUPS
from deployments.core.window import Window

KEPT_S = 60.0
"""How far back it looks."""
MOST = 4096
"""Answers that are remembered; of a busier minute the last so many."""
LOOKS = 64
"""Looks at the caches that are remembered, two seconds apart."""


class Seen(msgspec.Struct, frozen=True):
    """Answers of the last minute: how many ended and how many of them failed, their first words, the tokens they had in a second."""

    ended: int
    failed: int
    first_p50_ms: float
    first_p95_ms: float
    tokens_per_s: float


class Cache(msgspec.Struct, frozen=True):
    """Looks into a cache within the last minute, and how many found something."""

    cache: str
    looks: int
    hits: int


class Lately:
    """The window of one process; times are in seconds of its clock."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._first, self._tokens, self._failed = Window(KEPT_S, MOST), Window(KEPT_S, MOST), Window(KEPT_S, MOST)
        self._ended = Window(KEPT_S, MOST)
        self._looks: deque[tuple[float, dict[tuple[str, ...], float]]] = deque(maxlen=LOOKS)

    def first(self, took_s: float) -> None:
        """An answer has its first word."""
        self._first.feed(self._clock(), took_s)

    def ended(self, tokens: int, *, failed: bool) -> None:
        """An answer has ended."""
        now_s = self._clock()
        self._ended.feed(now_s, 1)
        self._failed.feed(now_s, failed)
        self._tokens.feed(now_s, tokens)

    def look(self) -> None:
        """Remember how the caches stand."""
        now_s = self._clock()
        while self._looks and self._looks[0][0] < now_s - KEPT_S:
            self._looks.popleft()
        self._looks.append((now_s, dict(CACHE_LOOKUPS.counted)))

    @property
    def answers(self) -> Seen:
        """The answers."""
        now_s = self._clock()
        return Seen(
            ended=int(self._ended.total(now_s)),
            failed=int(self._failed.total(now_s)),
            first_p50_ms=round(1000 * self._first.quantile(0.5, now_s), 1),
            first_p95_ms=round(1000 * self._first.quantile(0.95, now_s), 1),
            tokens_per_s=round(self._tokens.per_s(now_s), 2),
        )

    @property
    def caches(self) -> list[Cache]:
        """The caches that this process looks into itself."""
        if not self._looks:
            return []
        before, now = self._looks[0][1], CACHE_LOOKUPS.counted
        grown = {labels: int(count - before.get(labels, 0)) for labels, count in now.items()}
        names = sorted({cache for cache, _ in grown})
        return [Cache(name, grown.get((name, "hit"), 0) + grown.get((name, "miss"), 0), grown.get((name, "hit"), 0)) for name in names]
