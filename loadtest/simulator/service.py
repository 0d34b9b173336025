"""The service turns a request into an answer or a plain reply."""

import asyncio
import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import orjson

from loadtest.simulator import frames, plan
from loadtest.simulator.answers import Answer, Step, called, streamed, whole
from loadtest.simulator.faults import Fault, Faults, Kind
from loadtest.simulator.ledger import Entry, Ledger
from loadtest.simulator.ticker import Ticker

MARKER = re.compile(rb"\[\[marker:([^\[\]\"\\]{1,200})\]\]")
"""What a test writes into a message to find its request in the ledger again."""


class BadRequest(ValueError):
    """The body is not a chat request."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One chat request, as far as the simulator cares."""

    model: str
    stream: bool
    include_usage: bool
    limit: int | None
    prompt_tokens: int
    question: str
    marker: str | None
    said: int = 0
    """Words of a last message of the assistant's, which the answer goes on from."""
    function: str | None = None
    """The function that has to be called."""


def read(body: bytes) -> Ask:
    """Read a chat request; BadRequest when it is not one."""
    try:
        fields = orjson.loads(body)
        model, messages = str(fields["model"]), fields["messages"]
        texts = [(each["role"], _text(each.get("content"))) for each in messages]
        limit = fields.get("max_completion_tokens") or fields.get("max_tokens")
        options = fields.get("stream_options") or {}
        include_usage = bool(options.get("include_usage"))
        function = _function(fields)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadRequest(f"not a chat request: {error!r}") from error
    markers = MARKER.findall(body)
    return Ask(
        model,
        bool(fields.get("stream")),
        include_usage,
        int(limit) if limit is not None else None,
        sum(text.count(" ") + 1 for _, text in texts),
        next((text for role, text in reversed(texts) if role == "user"), ""),
        markers[-1].decode(errors="replace") if markers else None,
        len(plan.split(texts[-1][1])) if texts and texts[-1][0] == "assistant" else 0,
        function,
    )


def _function(fields: dict[str, Any]) -> str | None:
    """The function that the request forces."""
    choice, tools = fields.get("tool_choice"), fields.get("tools") or []
    if isinstance(choice, dict) and choice.get("type") == "function":
        return str(choice["function"]["name"])
    return str(tools[0]["function"]["name"]) if choice == "required" and tools else None


def _text(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.get("text", "") for part in content)


class Service:
    """All answers of one simulator."""

    def __init__(self, profile: plan.Profile, ledger: Ledger, ticker: Ticker, slots: int | None = None) -> None:
        self._profile = profile
        self._free = slots
        self._line: deque[Answer] = deque()
        self._ledger = ledger
        self._ticker = ticker
        self._number = 0

    def answer(self, body: bytes, transport: asyncio.Transport, done: Callable[[], None]) -> Answer:
        """Begin the answer to a chat request; BadRequest or BadModel when there can be none."""
        now = time.monotonic()
        ask = read(body)
        asked = plan.wish(ask.model)
        limit = None if ask.said else ask.limit  # what is left of a limit is its sender's guess; the text must not depend on it
        made = plan.after(plan.draw(self._profile, self._number, asked, limit, ask.question), ask.said)
        fault = self._limited(made.fault, asked, ask.marker or ask.model)
        kind = fault.kind if fault else None
        entry = Entry(f"chatcmpl-sim{self._number:09d}", ask.model, ask.marker, ask.stream, kind, now)
        self._number += 1
        self._ledger.open(entry)

        def close(reason: str) -> None:
            self._ledger.close(entry, reason, time.monotonic())
            done()
            self._leave(answer)

        made = plan.Plan(made.words, made.due_s, made.finish, fault)
        answer = Answer(_script(made, ask, entry), kind, entry, transport, close)
        if fault is not None and fault.kind is Kind.ERROR:
            transport.write(frames.failure(fault.status, "a simulated fault", "simulated", fault.retry_after_s))
            answer.end("error")
        elif kind is not Kind.HANG:
            self._enter(answer)
        return answer

    def _enter(self, answer: Answer) -> None:
        """Begin an answer, or have it wait for a slot as a real engine would."""
        if self._free == 0:
            self._line.append(answer)
            return
        if self._free is not None:
            self._free -= 1
        answer.begin(time.monotonic())
        self.play(answer)

    def _leave(self, answer: Answer) -> None:
        """Give the slot of an answer that has ended to the next that waits."""
        if self._free is None:
            return
        if not answer.begun:
            if answer in self._line:
                self._line.remove(answer)
            return
        self._free += 1
        if self._line:
            self._enter(self._line.popleft())

    def _limited(self, fault: Fault | None, asked: plan.Wish, key: str) -> Fault | None:
        if fault is None or asked.times is None:
            return fault
        return fault if self._ledger.strike(key) <= asked.times else None

    def play(self, answer: Answer) -> None:
        """Send what is due of an answer, and the rest when its time comes."""
        due = answer.tick(time.monotonic())
        if due is not None:
            self._ticker.add(due, answer)

    def _become(self, body: bytes) -> bytes:
        """Have the faults of the body from now on; those it does not name are off."""
        try:
            self._profile = replace(self._profile, faults=Faults(**orjson.loads(body)))
        except (ValueError, TypeError) as error:
            return frames.failure(400, f"not faults: {error}", "invalid_request")
        return frames.response(200, {"status": "ok"})

    def reply(self, method: str, path: str, body: bytes = b"") -> bytes:
        """Return the response to a request that is not a chat request."""
        match method, path:
            case "GET", "/health":
                return frames.response(200, {"status": "ok"})
            case "GET", "/v1/models":
                model = {"id": "sim", "object": "model", "created": 1_700_000_000, "owned_by": "simulator"}
                return frames.response(200, {"object": "list", "data": [model]})
            case "GET", "/sim/stats":
                return frames.response(200, self._ledger.stats())
            case "POST", "/sim/reset":
                self._ledger.reset()
                return frames.response(200, {"status": "ok"})
            case "POST", "/sim/faults":
                return self._become(body)
            case _:
                return frames.failure(404, f"{method} {path} is not simulated", "unknown_url")


def _script(made: plan.Plan, ask: Ask, entry: Entry) -> Iterator[Step]:
    created = int(time.time())
    if ask.stream:
        shaped = frames.Frames(entry.id, created, ask.model, ask.include_usage)
        if ask.function:
            return called(made, shaped, ask.function, ask.prompt_tokens)
        return streamed(made, shaped, ask.prompt_tokens)
    return whole(made, entry, created, ask.prompt_tokens)
