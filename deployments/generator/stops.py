"""Cuts a text at the first of some stop texts to be complete, wherever the pieces break; sans-I/O."""

from collections.abc import Sequence

from deployments.core.types import Logprob


class Stops:
    """Feed it pieces, get what may be said: nothing of a stop text ever, and what may become one only once it has not."""

    def __init__(self, stops: Sequence[str]):
        self.stopped = False
        self._stops = stops
        self._held = ""

    def feed(self, text: str) -> str:
        """What may be said now that the model has written `text`."""
        if not self._stops:
            return text
        text, self._held = self._held + text, ""
        ends = [(place + len(stop), place) for stop in self._stops if (place := text.find(stop)) >= 0]
        found = min(ends)[1] if ends else -1
        if self.stopped or found >= 0:
            said, self.stopped = "" if self.stopped else text[:found], True
            return said
        hold = max(_overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - hold :]
        return text[: len(text) - hold]

    def flush(self) -> str:
        """What was held back, now that nothing follows."""
        held, self._held = self._held, ""
        return "" if self.stopped else held


class Spoken:
    """Holds the probabilities of tokens back until their text has been said, so that those of a stop text are not told either."""

    def __init__(self) -> None:
        self._held: list[Logprob] = []
        self._chars = 0

    def feed(self, logprobs: Sequence[Logprob], said: str) -> list[Logprob]:
        """The tokens that have been said now that the model has written some and `said` has passed."""
        self._held += logprobs
        self._chars += len(said)
        told: list[Logprob] = []
        while self._held and len(self._held[0].token) <= self._chars:
            told.append(self._held.pop(0))
            self._chars -= len(told[-1].token)
        return told


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of the text begin the stop text."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
