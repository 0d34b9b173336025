"""An answer plays its script to one client: word by word when streamed, all at once when not."""

import asyncio
from collections.abc import Callable, Iterator

from loadtest.simulator import frames
from loadtest.simulator.faults import Kind
from loadtest.simulator.ledger import Entry
from loadtest.simulator.plan import Plan, numbered

Step = tuple[float, bytes, int]
"""Seconds after the request, bytes to send, number of words in them."""

EARLY_S = 0.0005
"""Half a slot of the ticker, which rounds to the nearest one."""


def streamed(plan: Plan, made: frames.Frames, prompt: int) -> Iterator[Step]:
    """Yield a streamed answer, one event a word; a cut or stalled one has no end."""
    fault, due = plan.fault, 0.0
    breaks = fault is not None and fault.kind in (Kind.CUT, Kind.STALL)
    yield due, frames.STREAM_HEAD, 0
    for index, due in enumerate(plan.due_s):
        if fault is not None and index == fault.after:
            if breaks:
                return
            yield due, made.malformed(), 0
        word = made.word(numbered(index) if isinstance(plan.words, int) else plan.words[index])
        yield due, word if index else made.role() + word, 1
    if not breaks:
        yield due, made.end(plan.finish, prompt, plan.tokens), 0


def called(plan: Plan, made: frames.Frames, function: str, prompt: int) -> Iterator[Step]:
    """Yield an answer that calls a function, when its first word would be due."""
    due = plan.due_s[0] if plan.due_s else 0.0
    yield 0.0, frames.STREAM_HEAD, 0
    yield due, made.role() + made.call(function, ['{"w0":', "0}"]), 2
    yield due, made.end("tool_calls", prompt, 2), 0


def whole(plan: Plan, entry: Entry, created: int, prompt: int) -> Iterator[Step]:
    """Yield an answer in one piece, when its last word is due; a cut or stalled one lacks its last quarter."""
    used = frames.usage(prompt, plan.tokens)
    text = frames.text(plan.words)
    data = frames.response(200, frames.completion(entry.id, created, entry.model, text, plan.finish, used))
    kind = plan.fault.kind if plan.fault else None
    if kind in (Kind.CUT, Kind.STALL):
        data = data[: -len(data) // 4]
    elif kind is Kind.MALFORMED:
        data = data[:-2] + b"]]"
    yield plan.due_s[-1] if plan.due_s else 0.0, data, plan.tokens


BURST_STEPS = 256
"""Steps one answer writes before others have their turn and the transport may ask for a pause."""


class Answer:
    """Writes each step of a script when it is due; what a slow client does not read waits, as in a real engine."""

    def __init__(
        self,
        script: Iterator[Step],
        fault: Kind | None,
        entry: Entry,
        transport: asyncio.Transport,
        done: Callable[[str], None],
    ) -> None:
        self._script = script
        self._fault = fault
        self._entry = entry
        self._transport = transport
        self._done = done
        self._next = next(script, None)
        self._over = False
        self._paused = False
        self._held = False
        self.begun = False

    def begin(self, now: float) -> None:
        """Start the clock of the script."""
        self._entry.started, self.begun = now, True

    def tick(self, now: float) -> float | None:
        """Write what is due and return when the next step is; None when paused or at the end."""
        if self._over or self._paused:
            self._held = self._paused
            return None
        ready: list[bytes] = []
        entry = self._entry
        while self._next is not None:
            due = entry.started + self._next[0]
            if due > now + EARLY_S or len(ready) == BURST_STEPS:
                self._write(ready, now)
                return due
            ready.append(self._next[1])
            entry.tokens_sent += self._next[2]
            self._next = next(self._script, None)
        self._write(ready, now)
        self._finish()
        return None

    def pause(self) -> None:
        """Write nothing for now: the client does not keep up."""
        self._paused = True

    def resume(self) -> bool:
        """Write again; true when a tick was missed meanwhile and has to be made up for."""
        held, self._paused, self._held = self._held, False, False
        return held

    def end(self, reason: str) -> None:
        """Say no more; only the first call has an effect."""
        if not self._over:
            self._over = True
            self._done(reason)

    def _write(self, ready: list[bytes], now: float) -> None:
        if ready:
            self._transport.write(ready[0] if len(ready) == 1 else b"".join(ready))
            self._entry.last_write = now

    def _finish(self) -> None:
        if self._fault is Kind.CUT:
            self._transport.close()
            self.end("cut")
        elif self._fault is not Kind.STALL:
            self.end("completed")
