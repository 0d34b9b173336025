"""The ticker wakes each item at its time, many from one timer."""

from collections.abc import Callable

import pytest

from loadtest.simulator.ticker import Ticker


class Loop:
    """A clock that is turned by hand, with one timer."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[Loop.Timer] = []

    class Timer:
        """A call to come."""

        def __init__(self, when: float, call: Callable[[], None]) -> None:
            self.when, self.call, self.cancelled = when, call, False

        def cancel(self) -> None:
            """Never call."""
            self.cancelled = True

    def call_later(self, delay: float, call: Callable[[], None]) -> Timer:
        """Keep a call for later."""
        self.timers.append(self.Timer(self.now + delay, call))
        return self.timers[-1]

    def turn(self, until: float) -> None:
        """Let time pass, and call what is due."""
        while True:
            self.timers = [timer for timer in self.timers if not timer.cancelled]
            due = sorted((timer for timer in self.timers if timer.when <= until), key=lambda timer: timer.when)
            if not due:
                break
            self.timers.remove(due[0])
            self.now = max(self.now, due[0].when)
            due[0].call()
        self.now = until


class Beat:
    """Ticks at fixed times, and notes when it was called."""

    def __init__(self, *due: float) -> None:
        self.due = list(due)
        self.seen: list[float] = []

    def tick(self, now: float) -> float | None:
        """Note the time, and ask for the next."""
        self.seen.append(now)
        return self.due.pop(0) if self.due else None


def ticker(loop: Loop) -> Ticker:
    """A ticker on a hand-turned clock."""
    return Ticker(loop, lambda: loop.now)  # pyright: ignore[reportArgumentType]


def test_each_item_is_called_within_a_millisecond_of_its_time() -> None:
    loop, beat = Loop(), Beat(0.0712, 0.0913, 2.0)
    ticker(loop).add(0.0503, beat)
    loop.turn(3.0)
    assert beat.seen == pytest.approx([0.0503, 0.0712, 0.0913, 2.0], abs=0.001)


def test_items_of_one_millisecond_share_a_timer() -> None:
    loop, beats = Loop(), [Beat() for _ in range(100)]
    shared = ticker(loop)
    for beat in beats:
        shared.add(0.05, beat)
    assert len(loop.timers) == 1
    loop.turn(0.1)
    assert all(len(beat.seen) == 1 for beat in beats)


def test_an_earlier_item_comes_first_though_added_later() -> None:
    loop, late, early = Loop(), Beat(), Beat()
    shared = ticker(loop)
    shared.add(0.5, late)
    shared.add(0.1, early)
    loop.turn(1.0)
    assert early.seen == pytest.approx([0.1], abs=0.001)
    assert late.seen == pytest.approx([0.5], abs=0.001)


def test_what_is_overdue_is_called_at_once() -> None:
    loop, beat = Loop(), Beat()
    loop.turn(5.0)
    ticker(loop).add(1.0, beat)
    loop.turn(5.0)
    assert len(beat.seen) == 1
