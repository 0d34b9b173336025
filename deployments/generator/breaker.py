"""Keeps calls from a backend that fails, and lets one try now and then; sans-I/O, times in seconds of any steady clock."""

from collections import deque
from typing import Literal

from deployments.core.sections import Resilience

State = Literal["closed", "open", "half_open"]


class Breaker:
    """The circuit breaker of one backend (Nygard, Release It!): closed, open for a while, then half open for one call that decides.

    It opens where at least half of the last calls have failed, and each time that its probe fails for twice as long.
    """

    def __init__(self, settings: Resilience):
        self._settings = settings
        self._recent = deque[bool](maxlen=settings.window)
        self._until = 0.0
        self._open = False
        self._pause_s = settings.open_s
        self._probing = False

    def state(self, now: float) -> State:
        """Whether calls go through."""
        if now < self._until:
            return "open"
        return "half_open" if self._open else "closed"

    def allows(self, now: float) -> bool:
        """Whether a call may begin: any while closed, one at a time while half open."""
        state = self.state(now)
        return state == "closed" or (state == "half_open" and not self._probing)

    def began(self, now: float) -> bool:
        """Note a call that `allows` has let begin; whether it is the probe."""
        self._probing = self.state(now) == "half_open"
        return self._probing

    def ended(self, now: float, good: bool | None, probe: bool) -> None:
        """Note how a call ended; `good` is None where that says nothing of the backend, as of a call that its caller gave up."""
        if probe:
            self._probing = False
            if good is not None:
                self._judge(now, good)
        elif good is not None and not self._open:
            self._recent.append(good)
            failed = self._recent.count(False)
            if failed >= self._settings.failures and 2 * failed >= len(self._recent):
                self._trip(now, self._settings.open_s)

    def cool(self, now: float, for_s: float) -> None:
        """Let nothing through for so long, because the backend asked for it; then go on as before."""
        self._until = max(self._until, now + min(for_s, self._settings.longest_open_s))

    def _judge(self, now: float, good: bool) -> None:
        if good:
            self._open = False
            self._recent.clear()
        else:
            self._trip(now, min(2 * self._pause_s, self._settings.longest_open_s))

    def _trip(self, now: float, pause_s: float) -> None:
        self._open, self._pause_s = True, pause_s
        self._until = max(self._until, now + pause_s)
