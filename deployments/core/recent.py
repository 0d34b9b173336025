"""Answers that stay good for a moment."""

from collections.abc import Callable
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """Remembers values for `ttl_s` seconds of `clock`; forgets everything when it holds `bound` of them."""

    def __init__(self, ttl_s: float, clock: Callable[[], float], bound: int = 10_000):
        self._ttl_s = ttl_s
        self._clock = clock
        self._bound = bound
        self._held: dict[Key, tuple[float, Value]] = {}

    def get(self, key: Key) -> Value | None:
        """The value of a key while it is fresh; None otherwise."""
        held = self._held.get(key)
        return held[1] if held and held[0] > self._clock() else None

    def put(self, key: Key, value: Value) -> Value:
        """Remember a value; returns it."""
        if len(self._held) >= self._bound:
            self._held.clear()
        self._held[key] = (self._clock() + self._ttl_s, value)
        return value
