"""The attempts at one model call: whom to ask, whether to ask again, and when; sans-I/O, times in seconds of any steady clock."""

from collections.abc import Sequence
from random import Random

from deployments.core.errors import BackendFailed, DeadlineExceeded, HeadraceError, Overloaded, Throttled, Unreachable
from deployments.core.models import Contract, Upstream
from deployments.core.sections import Resilience
from deployments.generator.budget import Budget
from deployments.generator.standing import Call, Standings, Wish

SHORTEST_S = 0.05
"""An attempt with less time than this is not begun."""
ANY = Wish()
"""No wish."""


class Plan:
    """Asks the backends of one call in turn, each anew before any again, until one answers, time is up, or retries are."""

    def __init__(
        self,
        upstreams: Sequence[Upstream],
        settings: Resilience,
        standings: Standings,
        budget: Budget,
        random: Random,
        until: float,
        wish: Wish = ANY,
    ):
        self._upstreams, self._settings = tuple(upstreams), settings
        self._standings, self._budget, self._random = standings, budget, random
        self._until, self._wish = until, wish
        self._asked: list[str] = []
        self._last: HeadraceError | None = None
        budget.call()

    def begin(self, now: float) -> Call:
        """The next attempt; raises what the last one failed of, or Overloaded, where every backend is out."""
        upstream = self._next(now)
        if upstream is None:
            raise self._last or Overloaded("no model backend takes calls now", code="backends_out", retry_after_s=self._settings.open_s)
        return self._begin(upstream, now)

    def spare(self, now: float) -> Call | None:
        """An attempt beside the one that is under way, at a backend that was not asked yet; None where there is none, or no retry left."""
        upstream = self._fresh(now)
        if upstream is None or len(self._asked) >= self._settings.attempts or not self._budget.spend():
            return None
        return self._begin(upstream, now)

    def failed(self, call: Call, error: HeadraceError, now: float) -> None:
        """Note that an attempt failed."""
        call.end(now, False if self._blamed(error, now) else None)
        if isinstance(error, Throttled) and error.retry_after_s is not None:
            call.standing.breaker.cool(now, error.retry_after_s)  # everybody keeps away from a backend that asked for it

    def again(self, error: HeadraceError, now: float, contract: Contract | None) -> float:
        """The pause in seconds before `begin` may be asked again; raises the error where there is no more to be done.

        Where the answer has begun, the contract decides.
        """
        self._last = error
        if not self._blamed(error, now) or len(self._asked) >= self._settings.attempts or contract == "fail":
            raise error
        if contract == "continue":
            self._upstreams = tuple(one for one in self._upstreams if one.continues)
        pause_s = 0.0 if self._fresh(now) else self._pause(error)
        if not self._next(now + pause_s) or now + pause_s + SHORTEST_S > self._until:
            raise error
        if not isinstance(error, Unreachable) and not self._budget.spend():
            raise error
        return pause_s

    def _begin(self, upstream: Upstream, now: float) -> Call:
        self._asked.append(upstream.name)
        return Call.begin(upstream, self._standings.of(upstream.name), now)

    def _blamed(self, error: HeadraceError, now: float) -> bool:
        """Whether it is the backend's failure, so that another attempt may fare better; a caller in a hurry says nothing of the backend."""
        return isinstance(error, Overloaded | BackendFailed | DeadlineExceeded) and now < self._until

    def _fresh(self, now: float) -> Upstream | None:
        """Somebody who was not asked yet."""
        return self._choose([one for one in self._upstreams if one.name not in self._asked], now)

    def _next(self, now: float) -> Upstream | None:
        return self._fresh(now) or self._choose(self._upstreams, now)

    def _choose(self, upstreams: Sequence[Upstream], now: float) -> Upstream | None:
        return self._standings.choose(upstreams, self._wish, now, self._random)

    def _pause(self, error: HeadraceError) -> float:
        """Exponential with jitter (Brooker, AWS 2015), or what the backend asked for if it is not longer than any pause may be."""
        longest = min(self._settings.backoff_s * 2 ** (len(self._asked) - 1), self._settings.longest_backoff_s)
        jitter = self._random.uniform(longest / 2, longest)
        asked = error.retry_after_s if isinstance(error, Throttled) else None
        return jitter if asked is None else max(jitter, min(asked, self._settings.longest_backoff_s) + jitter - longest / 2)
