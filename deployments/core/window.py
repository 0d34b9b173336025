"""The last values of one figure, for whoever asks how things are now."""

from collections import deque


class Window:
    """Values of the last `keep_s` seconds, the newest `most` of them; sans-I/O, times in seconds of any one clock."""

    def __init__(self, keep_s: float, most: int = 512):
        self.keep_s = keep_s
        self._values: deque[tuple[float, float]] = deque(maxlen=most)

    def feed(self, now_s: float, value: float) -> None:
        """Take a value."""
        self._values.append((now_s, value))

    def total(self, now_s: float) -> float:
        """The sum of the values."""
        return sum(self._fresh(now_s))

    def per_s(self, now_s: float) -> float:
        """The sum of the values a second: over the whole window, or over the time of those that are left where more came than are kept."""
        values = self._fresh(now_s)
        since_s = now_s - self._values[0][0] if len(values) == self._values.maxlen else self.keep_s
        return sum(values) / since_s if since_s else 0.0

    def quantile(self, share: float, now_s: float) -> float:
        """The value that this share of them does not exceed; 0 where there is none."""
        values = sorted(self._fresh(now_s))
        return values[min(int(share * len(values)), len(values) - 1)] if values else 0.0

    def _fresh(self, now_s: float) -> list[float]:
        while self._values and self._values[0][0] <= now_s - self.keep_s:
            self._values.popleft()
        return [value for _, value in self._values]
