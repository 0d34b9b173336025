"""Answers that stay good for a moment."""

from collections.abc import Callable
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """Remembers values for `ttl_s` seconds of `clock`; beyond `bound` of them, the one that was put first is forgotten."""

    def __init__(self, ttl_s: float, clock: Callable[[], float], bound: int = 10_000):
        self._ttl_s = ttl_s
        self._clock = clock
        self._bound = bound
        self._held: dict[Key, tuple[float, Value]] = {}

    def get(self, key: Key) -> Value | None:
        """The value of a key while it is fresh; None otherwise, and when the clock was set back."""
        held = self._held.get(key)
        return held[1] if held and 0 <= self._clock() - held[0] < self._ttl_s else None

    def put(self, key: Key, value: Value, at: float | None = None) -> Value:
        """Remember a value as it was at a time, now unless told otherwise; returns it."""
        self._held.pop(key, None)
        if len(self._held) >= self._bound:
            self._held.pop(next(iter(self._held)))
        self._held[key] = (self._clock() if at is None else at, value)
        return value
