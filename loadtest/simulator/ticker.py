"""The ticker wakes many streams from one timer, in slots of a millisecond."""

import asyncio
import time
from collections.abc import Callable
from heapq import heappop, heappush
from math import ceil
from typing import Protocol

SLOTS_PER_S = 1000
"""One slot is the resolution of the event loop's timer (libuv counts in milliseconds)."""


class Due(Protocol):
    """Something that acts at a time and says when it is due next."""

    def tick(self, now: float) -> float | None:
        """Act, and return the next time in the clock's seconds, or None to be left alone."""
        ...


class Ticker:
    """One timer for all streams: each acts within about a millisecond after it is due."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float] = time.monotonic) -> None:
        self._loop = loop
        self._clock = clock
        self._slots: dict[int, list[Due]] = {}
        self._order: list[int] = []
        self._armed: int | None = None
        self._timer: asyncio.TimerHandle | None = None

    def add(self, due: float, item: Due) -> None:
        """Have `item.tick` called at `due`, in the clock's seconds."""
        slot = round(due * SLOTS_PER_S)
        waiting = self._slots.get(slot)
        if waiting is None:
            self._slots[slot] = [item]
            heappush(self._order, slot)
            if self._armed is None or slot < self._armed:
                self._arm(slot)
        else:
            waiting.append(item)

    def _arm(self, slot: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        wait = max(ceil(slot - self._clock() * SLOTS_PER_S), 0)
        self._armed = slot
        self._timer = self._loop.call_later(wait / SLOTS_PER_S, self._fire)

    def _fire(self) -> None:
        now = self._clock()
        self._armed = -1  # nothing re-arms while the due slots are worked off
        again: list[tuple[float, Due]] = []
        while self._order and self._order[0] <= now * SLOTS_PER_S:
            for item in self._slots.pop(heappop(self._order)):
                due = item.tick(now)
                if due is not None:
                    again.append((due, item))
        for due, item in again:
            self.add(due, item)
        self._armed = self._timer = None
        if self._order:
            self._arm(self._order[0])
