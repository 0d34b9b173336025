"""One answer as its client saw it, over however many connections, and what became of it.

Nothing here touches a socket or a clock: events are fed, and the time is an argument.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from loadtest.streaming import NUMBERED, order

LAST = frozenset({"response.completed", "response.incomplete", "response.failed"})

REFUSALS = frozenset({429, 503})


class Kind(StrEnum):
    """How an answer is asked for."""

    CHAT = "chat"
    """Chat Completions, streamed: ends with its connection."""
    RESPONSE = "response"
    """Responses over server-sent events, which outlive their connection and are resumed."""
    SOCKET = "socket"
    """The same over a WebSocket."""


class Fate(StrEnum):
    """What became of an answer; the first that fits."""

    SILENT = "silent"
    """It ended as if whole, and is not: the one thing that must never be."""
    WHOLE = "whole"
    FAILED = "failed"
    """A typed error ended it."""
    REFUSED = "refused"
    """429 or 503 with a time to come back."""
    ERROR = "error"
    """Another status, or a refusal without a time to come back."""
    CUT = "cut"
    """Its connection broke, which the client noticed, and it is of a kind that is not resumed."""
    LOST = "lost"
    """It was to be resumed, and no end of it came."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One connection that asked for a new answer: it succeeded where text came over it; times are seconds of one monotonic clock."""

    sent: float
    ended: float
    """When the first text came, or when it was known that none would come."""
    good: bool


@dataclass(slots=True)
class Answer:
    """One answer of numbered words (w0 w1 w2 …)."""

    kind: Kind
    expected: int
    """Words of the whole answer."""
    sent: float
    id: str | None = None
    """Of a response, once it is known."""
    first: float | None = None
    ended: float | None = None
    error: str | None = None
    """The code of a typed error."""
    status: int = 200
    """The last one that was not 200."""
    retry_after: bool = False
    """It was told when to come back: with that status, or with the error that ended a chat."""
    connections: int = 0
    attempts: list[Attempt] = field(default_factory=list[Attempt])
    events: int = 0
    """Numbered events read: the next one's number."""
    skipped: int = 0
    repeated: int = 0
    hushed: int = 0
    """Connections that ended properly before the answer did: a client that does not know better takes that for its end."""
    done: bool = False
    finish: str | None = None
    pieces: list[str] = field(default_factory=list[str])
    last: float | None = None
    """When text came last."""
    longest_gap_s: float = 0.0
    """Between two pieces of text."""

    @property
    def text(self) -> str:
        """What was read."""
        return "".join(self.pieces)

    @property
    def words(self) -> int:
        """Words read."""
        return len(NUMBERED.findall(self.text))

    def event(self, event: dict[str, Any], now: float) -> None:
        """Take one event of a response; those of a number that was read before are counted, not taken."""
        kind, number = event.get("type"), event.get("sequence_number")
        if kind == "error":
            self._fail(str(event.get("code") or (event.get("error") or {}).get("code") or "error"), now)
            return
        if isinstance(number, int):
            if number < self.events:
                self.repeated += 1
                return
            self.skipped += number - self.events
            self.events = number + 1
        self.id = self.id or (event.get("response") or {}).get("id")
        if kind == "response.output_text.delta":
            self._text(str(event["delta"]), now)
        elif kind in LAST:
            self.done, self.ended = True, now
            self.finish = "stop" if kind == "response.completed" else None
            if kind != "response.completed":
                self.error = str(((event.get("response") or {}).get("error") or {}).get("code") or kind)

    def chunk(self, chunk: dict[str, Any] | None, now: float) -> None:
        """Take one chunk of a chat; None is `[DONE]`."""
        if chunk is None:
            self.done, self.ended = True, now
        elif "error" in chunk:
            self.retry_after = "retry_after_ms" in chunk["error"]
            self._fail(str(chunk["error"].get("code") or chunk["error"].get("type") or "error"), now)
        else:
            for choice in chunk["choices"]:
                self.finish = choice.get("finish_reason") or self.finish
                if content := choice["delta"].get("content"):
                    self._text(content, now)

    def refuse(self, status: int, retry_after: bool, now: float) -> None:
        """Note a status other than 200."""
        self.status, self.retry_after, self.ended = status, retry_after, now

    def _fail(self, code: str, now: float) -> None:
        self.error, self.ended = self.error or code, now

    def _text(self, text: str, now: float) -> None:
        if self.last is not None:
            self.longest_gap_s = max(self.longest_gap_s, now - self.last)
        self.first, self.last = self.first or now, now
        self.pieces.append(text)

    @property
    def settled(self) -> bool:
        """Whether its client knows how it ended."""
        return self.done or self.error is not None

    @property
    def fate(self) -> Fate:
        """What became of it."""
        found = order(self.text, self.expected)
        faultless = found is not None and not found.missing and not self.skipped
        if self.done and self.error is None and (not faultless or self.finish is None):
            return Fate.SILENT
        if not self.settled and self.hushed and self.kind is Kind.CHAT:
            return Fate.SILENT
        if self.settled:
            return Fate.WHOLE if self.error is None else Fate.FAILED
        if self.status != 200:
            return Fate.REFUSED if self.status in REFUSALS and self.retry_after else Fate.ERROR
        return Fate.CUT if self.kind is Kind.CHAT else Fate.LOST

    @property
    def duplicated(self) -> int:
        """Words that were read twice or out of order; events that a resumption sent again are not, but their text would be."""
        found = order(self.text, self.expected)
        return found.repeated + found.misplaced if found else 0

    @property
    def ttft(self) -> float | None:
        """Seconds from the question to the first text."""
        return None if self.first is None else self.first - self.sent
