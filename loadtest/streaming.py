"""Reads streamed chat answers: bytes in, events out, and a record of what came when.

Nothing here touches a socket or a clock; the reader is fed, and the time is an argument.
"""

import re
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import orjson

NUMBERED = re.compile(r"(?<![^\W\d_])w(\d+)")
"""A word of the simulator, also when a citation marker sticks to it."""


class Events:
    """Turns the bytes of an SSE body into the data of its events, however they are cut.

    Lines may end in LF or CRLF (not in a lone CR). Comments, `event:`, `id:` and `retry:` are skipped: chat
    streams carry everything in `data:`. An event without its blank line is not delivered, as in every SSE client.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the data of every event that `chunk` completes."""
        lines = (self._rest + chunk).split(b"\n")
        self._rest = lines.pop()
        events: list[bytes] = []
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[5:].removesuffix(b"\r").removeprefix(b" "))
            elif line in (b"", b"\r") and self._data:
                events.append(b"\n".join(self._data))
                self._data = []
        return events


@dataclass(slots=True)
class Reading:
    """One streamed chat answer as its client saw it; times are seconds of one monotonic clock."""

    sent: float
    first: float | None = None
    """When the first content came; the role chunk and comments do not count."""
    last: float | None = None
    ended: float | None = None
    tokens: int = 0
    """Words, so that it makes no difference how deltas are merged."""
    finish: str | None = None
    done: bool = False
    """`[DONE]` was read."""
    error: str | None = None
    silent: bool = False
    """It ended as if all were well, without having come to its end."""
    usage: dict[str, Any] | None = None
    gaps: list[float] = field(default_factory=list[float])
    pieces: list[str] = field(default_factory=list[str])

    def read(self, data: bytes, now: float) -> int:
        """Take one event and return how many words it began."""
        if data == b"[DONE]":
            self.done, self.ended = True, now
            return 0
        try:
            event = orjson.loads(data)
            if "error" in event:
                self.fail(str(event["error"].get("code") or event["error"].get("type") or "error"), now)
                return 0
            self.usage = event.get("usage") or self.usage
            choice = event["choices"][0] if event["choices"] else {}
            self.finish = choice.get("finish_reason") or self.finish
            content = (choice.get("delta") or {}).get("content")
        except (ValueError, KeyError, AttributeError, TypeError):
            self.fail("malformed event", now)
            return 0
        return self.say(content, now) if content else 0

    def end(self, now: float, error: str | None = None) -> None:
        """Note that the body is over, properly or not."""
        if error is not None:
            self.fail(error, now)
        elif not self.proper:
            self.silent = self.error is None
            self.fail("ended early" if self.tokens else "no text", now)
        self.ended = self.ended or now

    def fail(self, error: str, now: float) -> None:
        """Note what went wrong; what came first counts."""
        self.error = self.error or error
        self.ended = self.ended or now

    def say(self, content: str, now: float) -> int:
        """Take a piece of the text and return how many words it began."""
        begun = len(content.split())
        if begun and self.pieces and not content[0].isspace() and not self.pieces[-1][-1].isspace():
            begun -= 1
        if self.last is None:
            self.first = now
        else:
            self.gaps.append(now - self.last)
        self.last = now
        self.pieces.append(content)
        self.tokens += begun
        return begun

    @property
    def text(self) -> str:
        """The whole answer so far."""
        return "".join(self.pieces)

    @property
    def proper(self) -> bool:
        """The answer has text, a finish reason and `[DONE]`, and no error came."""
        return self.done and self.finish is not None and self.error is None and self.tokens > 0

    @property
    def ttft(self) -> float | None:
        """Seconds from sending the request to the first content."""
        return None if self.first is None else self.first - self.sent

    @property
    def e2e(self) -> float | None:
        """Seconds from sending the request to the last event."""
        return None if self.ended is None else self.ended - self.sent


@dataclass(frozen=True, slots=True)
class Order:
    """What is wrong with the numbered words of a simulated answer."""

    missing: int
    repeated: int
    misplaced: int

    @property
    def flaws(self) -> int:
        """All of it together; 0 is a faultless text."""
        return self.missing + self.repeated + self.misplaced


def order(text: str, expected: int | None = None) -> Order | None:
    """Check that `text` is w0 w1 w2 … without loss, repetition or disorder; None when it is no such text."""
    numbers = [int(number) for number in NUMBERED.findall(text)]
    if not numbers or len(numbers) < len(text.split()) / 2:
        return None
    distinct = set(numbers)
    count = max(expected or 0, max(distinct) + 1)
    repeated = len(numbers) - len(distinct)
    backwards = sum(later < earlier for earlier, later in pairwise(numbers))
    return Order(count - len(distinct), repeated, backwards)
