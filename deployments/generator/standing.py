"""How the backends of this process are doing, and which of them is asked next; sans-I/O, times in seconds of any steady clock."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from random import Random

import msgspec

from deployments.core.models import Tier, Upstream
from deployments.core.sections import Resilience
from deployments.generator.breaker import Breaker

DECAY_S = 10.0
"""After so long a third of what was measured is left of a backend's latency."""
FIRST_S = 0.2
"""The latency of a backend of which nothing is known."""


STICKINESS = 2.0
"""A session stays with its backend until that costs so many times what another does: the prompt it would have to read anew costs, too."""


class Wish(msgspec.Struct, frozen=True):
    """Which backends a call would rather have: those of the nearest region (the first), of a tier, one by its name, a session's own."""

    regions: tuple[str, ...] = ()
    tier: Tier | None = None
    prefers: str = ""
    session: str = ""


class Standing:
    """One backend: its breaker, its ongoing calls, and how long its first token takes."""

    def __init__(self, settings: Resilience):
        self.breaker = Breaker(settings)
        self.ongoing = 0
        self._latency_s = FIRST_S
        self._measured = 0.0

    def answered(self, now: float, took_s: float) -> None:
        """Note how long a first token took: a peak counts at once, what is better bit by bit (peak EWMA)."""
        kept = math.exp(-max(now - self._measured, 0.0) / DECAY_S)
        self._latency_s = max(took_s, kept * self._latency_s + (1 - kept) * took_s)
        self._measured = now

    def waited(self, now: float, so_long_s: float) -> None:
        """Note that a first token had not come after so long, where that is longer than was known."""
        if so_long_s > self._latency_s:
            self.answered(now, so_long_s)

    @property
    def cost(self) -> float:
        """What one more call can expect to wait, in seconds, roughly."""
        return self._latency_s * (self.ongoing + 1)


class Standings:
    """All backends, by name."""

    def __init__(self, settings: Resilience):
        self._settings = settings
        self._known: dict[str, Standing] = {}

    @property
    def known(self) -> Mapping[str, Standing]:
        """Those of which something is known, by name."""
        return self._known

    def of(self, name: str) -> Standing:
        """How a backend is doing."""
        return self._known.setdefault(name, Standing(self._settings))

    def choose(self, upstreams: Sequence[Upstream], wish: Wish, now: float, random: Random) -> Upstream | None:
        """The next to ask: for the tier, of the first rank, of the nearest region; None if all are out.

        Of these the better of two drawn by weight, the first of which is the session's own where there is one: what it has read of the
        conversation before is in its cache. The one that is preferred by name goes before all others.
        """
        free = [one for one in upstreams if self.of(one.name).breaker.allows(now) and self.of(one.name).ongoing < one.max_ongoing]
        if not free:
            return None
        best = min(_place(one, wish) for one in free)
        peers = [one for one in free if _place(one, wish) == best]
        first = _own(peers, wish.session) if wish.session else _drawn(peers, random)
        second = _drawn([one for one in peers if one is not first] or peers, random)
        bias = STICKINESS if wish.session else 1.0
        return first if self.of(first.name).cost <= bias * self.of(second.name).cost else second


def _drawn(upstreams: Sequence[Upstream], random: Random) -> Upstream:
    return random.choices(upstreams, [one.weight for one in upstreams])[0]


def _own(upstreams: Sequence[Upstream], session: str) -> Upstream:
    """The one that a session belongs to, in every process (rendezvous hashing by weight, Thaler and Ravishankar 1998)."""

    def score(one: Upstream) -> float:
        digest = hashlib.blake2b(f"{session}\0{one.name}".encode(errors="replace"), digest_size=8).digest()
        return -one.weight / math.log((int.from_bytes(digest) + 1) / (2**64 + 1))

    return max(upstreams, key=score)


def _place(upstream: Upstream, wish: Wish) -> tuple[bool, bool, int, int]:
    other = wish.tier is not None and upstream.tier not in (None, wish.tier)
    region = wish.regions.index(upstream.region) if upstream.region in wish.regions else len(wish.regions)
    return upstream.name != wish.prefers, other, upstream.rank, region


class Call(msgspec.Struct):
    """One attempt that is under way at a backend."""

    upstream: Upstream
    standing: Standing
    probe: bool
    began: float
    heard: bool = False
    ended: bool = False

    @classmethod
    def begin(cls, upstream: Upstream, standing: Standing, now: float) -> "Call":
        """Begin."""
        standing.ongoing += 1
        return cls(upstream, standing, standing.breaker.began(now), now)

    def hear(self, now: float) -> None:
        """Note the first token."""
        if not self.heard:
            self.heard = True
            self.standing.answered(now, now - self.began)

    def end(self, now: float, good: bool | None) -> None:
        """Note how it ended, once; None says nothing of the backend."""
        if not self.ended:
            self.ended = True
            self.standing.ongoing -= 1
            self.standing.breaker.ended(now, good, self.probe)

    def leave(self, now: float) -> None:
        """Note that its caller went away, where it has not ended: a backend that was heard is well."""
        if not self.heard and not self.ended:
            self.standing.waited(now, now - self.began)
        self.end(now, True if self.heard else None)
