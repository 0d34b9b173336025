"""Going on with an answer that another generator began; sans-I/O."""

from collections.abc import Sequence

import msgspec

from deployments.core.ports import Relay
from deployments.core.types import Citation, Cited, Delta, Generation, Text


def spoken(log: Sequence[Delta]) -> str:
    """What the model has said, as the log holds it: our citation markers are cut out, with the space before each.

    A marker and its citation are recorded in one step, so the log never ends between them.
    """
    text = "".join(delta.text for delta in log if isinstance(delta, Text))
    for citation in sorted((delta.citation for delta in log if isinstance(delta, Cited)), key=lambda cited: -cited.start):
        text = text[: max(0, citation.start - 1)] + text[citation.end :]
    return text


def own(generation: Generation) -> tuple[tuple[Delta, ...], int]:
    """What the log holds of this call of the model, and how many characters earlier calls have said; citations count from its own text."""
    before, log = generation.log.written[: generation.since], generation.log.written[generation.since :]
    said = sum(len(delta.text) for delta in before if isinstance(delta, Text))
    if not said:
        return log, 0
    return tuple(Cited(delta.seq, moved(delta.citation, -said)) if isinstance(delta, Cited) else delta for delta in log), said


def moved(citation: Citation, characters: int) -> Citation:
    """A citation so many characters further on."""
    return msgspec.structs.replace(citation, start=citation.start + characters, end=citation.end + characters)


class Resumed:
    """A relay filter brought to where the log ends: it is fed what was said, and what it says of that again is dropped.

    Works because filters are deterministic: the same text gives the same text and citations, wherever its pieces break.
    """

    def __init__(self, relay: Relay, log: Sequence[Delta]):
        self._relay = relay
        self._known_chars = sum(len(delta.text) for delta in log if isinstance(delta, Text))
        self._known_citations = sum(isinstance(delta, Cited) for delta in log)
        self._fresh(relay.feed(spoken(log)))

    def feed(self, text: str) -> list[str | Citation]:
        """What is new."""
        return self._fresh(self._relay.feed(text))

    def flush(self) -> list[str | Citation]:
        """What is new at the end."""
        return self._fresh(self._relay.flush())

    def _fresh(self, pieces: list[str | Citation]) -> list[str | Citation]:
        fresh: list[str | Citation] = []
        for piece in pieces:
            if isinstance(piece, str):
                known = min(self._known_chars, len(piece))
                self._known_chars -= known
                if piece[known:]:
                    fresh.append(piece[known:])
            elif self._known_citations:
                self._known_citations -= 1
            else:
                fresh.append(piece)
        return fresh
