"""The ledger remembers every answer: those in flight, and the last ones that ended."""

from collections import Counter, deque
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(slots=True)
class Entry:
    """One answer; times are CLOCK_MONOTONIC seconds, comparable between processes of one machine."""

    id: str
    model: str
    marker: str | None
    stream: bool
    fault: str | None
    started: float
    tokens_sent: int = 0
    last_write: float | None = None
    ended: float | None = None
    reason: str | None = None
    """completed, cancelled (the client left first), cut or error."""


class Ledger:
    """Counts answers and keeps the last `keep` that ended."""

    def __init__(self, keep: int) -> None:
        self._open: dict[str, Entry] = {}
        self._ended: deque[Entry] = deque(maxlen=keep)
        self._reasons: Counter[str] = Counter()
        self._strikes: Counter[str] = Counter()
        self._tokens = 0

    def open(self, entry: Entry) -> None:
        """Note that an answer has begun."""
        self._open[entry.id] = entry

    def close(self, entry: Entry, reason: str, now: float) -> None:
        """Note how and when an answer ended; a second call for the same answer changes nothing."""
        if self._open.pop(entry.id, None) is None:
            return
        entry.ended, entry.reason = now, reason
        self._reasons[reason] += 1
        self._tokens += entry.tokens_sent
        self._ended.append(entry)

    def strike(self, key: str) -> int:
        """Return how many faults limited by `times` this key has had, counting this one."""
        self._strikes[key] += 1
        return self._strikes[key]

    def reset(self) -> None:
        """Forget counts and ended answers; those in flight stay open."""
        self._ended.clear()
        self._reasons.clear()
        self._strikes.clear()
        self._tokens = 0

    def stats(self) -> dict[str, Any]:
        """Return the counts, the answers in flight and the last ones that ended, oldest first."""
        return {
            "open": len(self._open),
            "total": len(self._open) + self._reasons.total(),
            "completed": self._reasons["completed"],
            "cancelled": self._reasons["cancelled"],
            "cut": self._reasons["cut"],
            "error": self._reasons["error"],
            "tokens": self._tokens,
            "live": [asdict(entry) for entry in self._open.values()],
            "ended": [asdict(entry) for entry in self._ended],
        }
