"""Chat Completions as it looks on the wire: the response, streamed and whole; sans-I/O."""

from collections.abc import Sequence
from typing import Any

import msgspec

from deployments.core.errors import HeadraceError
from deployments.core.types import Called, Cancelled, Cited, Delta, Failed, Finished, Logprob, Text, Turn, Usage
from deployments.gateway import envelope
from deployments.gateway.wire import FINGERPRINT, MAX_EVENT_CHARS, usage

MAX_EVENT_TOKENS = 16
"""Tokens whose probabilities go into one event: each takes about 2 KiB with 20 others."""

_encode = msgspec.json.encode


def annotation(cited: Cited) -> dict[str, Any]:
    """A citation as Chat Completions nests it; offsets are half-open, in code points of the answer."""
    at = cited.citation
    return {"type": "url_citation", "url_citation": {"url": at.url, "title": at.title, "start_index": at.start, "end_index": at.end}}


def logprob(one: Logprob) -> dict[str, Any]:
    """A token's probability, with the most likely others."""
    token = {"token": one.token, "logprob": one.logprob, "bytes": list(one.token.encode("utf-8", "surrogateescape"))}
    return token | {"top_logprobs": [logprob(other) for other in one.others]}


class ChatStream:
    """Deltas of one answer, or of several side by side, to the bytes of a streamed chat completion."""

    def __init__(self, turn: Turn, include_usage: bool, choices: int = 1):
        self._include_usage = include_usage
        self._left = choices
        self._choices = choices
        self._used = Usage()
        fixed = {"id": turn.id, "object": "chat.completion.chunk", "created": turn.created, "model": turn.model}
        fixed |= {"system_fingerprint": FINGERPRINT, "service_tier": turn.handling.service}
        self._fixed = b"data: " + _encode(fixed)[:-1]
        self._text_heads = [self._fixed + b',"choices":[{"index":%d,"delta":{"content":' % index for index in range(choices)]
        self._text_tail = b'},"logprobs":null,"finish_reason":null}],"usage":null}\n\n'
        self._annotations: dict[int, list[dict[str, Any]]] = {}

    def start(self) -> bytes:
        """The first event of each answer: the role."""
        return b"".join(self._chunk({"role": "assistant", "content": "", "refusal": None}, index) for index in range(self._choices))

    def encode(self, deltas: Sequence[Delta], index: int = 0) -> bytes:
        """The events of some deltas of one answer; b"" where they make none."""
        return b"".join([self._event(delta, index) for delta in deltas])

    def failed(self, error: HeadraceError) -> bytes:
        """The event of an error after the first byte; nothing follows it."""
        return envelope.event(error)

    def _event(self, delta: Delta, index: int) -> bytes:
        match delta:
            case Text(text=text, logprobs=logprobs):
                if logprobs:
                    return self._told(text, logprobs, index)
                pieces = [text[i : i + MAX_EVENT_CHARS] for i in range(0, len(text), MAX_EVENT_CHARS)]
                return b"".join([self._text_heads[index] + _encode(piece) + self._text_tail for piece in pieces])
            case Cited():
                self._annotations.setdefault(index, []).append(annotation(delta))
                return b""
            case Called():
                return self._chunk({"tool_calls": [_fragment(delta)]}, index)
            case Finished(reason=reason, usage=used):
                return self._end(index, reason, used)
            case Cancelled():
                return self.failed(envelope.ended())
            case Failed():
                return self.failed(envelope.Broken(delta))
            case _:
                return b""

    def _told(self, text: str, logprobs: Sequence[Logprob], index: int) -> bytes:
        """Text with its tokens' probabilities, a few tokens an event."""
        events: list[bytes] = []
        while text or logprobs:
            events.append(self._chunk({"content": text[:MAX_EVENT_CHARS]}, index, logprobs=logprobs[:MAX_EVENT_TOKENS]))
            text, logprobs = text[MAX_EVENT_CHARS:], logprobs[MAX_EVENT_TOKENS:]
        return b"".join(events)

    def _end(self, index: int, reason: str, used: Usage) -> bytes:
        self._left -= 1
        self._used = Usage(used.prompt_tokens, self._used.completion_tokens + used.completion_tokens, used.replayed)
        cited = self._chunk({"annotations": self._annotations[index]}, index) if index in self._annotations else b""
        last = cited + self._chunk({}, index, reason)
        if self._left:
            return last
        counts = self._fixed + b',"choices":[],"usage":' + _encode(usage(self._used)) + b"}\n\n" if self._include_usage else b""
        return last + counts + b"data: [DONE]\n\n"

    def _chunk(self, delta: dict[str, Any], index: int, reason: str | None = None, logprobs: Sequence[Logprob] = ()) -> bytes:
        told = {"content": [logprob(one) for one in logprobs], "refusal": None} if logprobs else None
        choice = {"index": index, "delta": delta, "logprobs": told, "finish_reason": reason}
        return self._fixed + b',"choices":' + _encode([choice]) + b',"usage":null}\n\n'


def _fragment(called: Called) -> dict[str, Any]:
    """A piece of a call: id, type and name only in its first."""
    if called.name is None:
        return {"index": called.index, "function": {"arguments": called.arguments}}
    function = {"name": called.name, "arguments": called.arguments}
    return {"index": called.index, "id": called.call_id or f"call_{called.index}", "type": "function", "function": function}


class Choice:
    """One answer, gathered."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.annotations: list[dict[str, Any]] = []
        self.logprobs: list[dict[str, Any]] = []
        self.calls: dict[int, dict[str, Any]] = {}
        self.finished: Finished | None = None

    def take(self, delta: Delta) -> None:
        """Take a delta; raises Broken."""
        match delta:
            case Text(text=text, logprobs=logprobs):
                self.text.append(text)
                self.logprobs += [logprob(one) for one in logprobs]
            case Cited():
                self.annotations.append(annotation(delta))
            case Called():
                function = {"name": delta.name, "arguments": ""}
                call = self.calls.setdefault(delta.index, {"id": delta.call_id, "type": "function", "function": function})
                call["function"]["arguments"] += delta.arguments
            case Finished():
                self.finished = delta
            case Failed():
                raise envelope.Broken(delta)
            case Cancelled():
                raise envelope.ended()
            case _:
                pass

    def shape(self, index: int) -> dict[str, Any]:
        """As it is on the wire."""
        text, calls = "".join(self.text), list(self.calls.values())
        message = {"role": "assistant", "content": text or (None if calls else ""), "refusal": None, "annotations": self.annotations}
        told = {"content": self.logprobs, "refusal": None} if self.logprobs else None
        reason = self.finished.reason if self.finished else None
        return {"index": index, "message": message | ({"tool_calls": calls} if calls else {}), "logprobs": told, "finish_reason": reason}


class ChatBody:
    """Deltas of one answer, or of several, to the body of a whole chat completion."""

    def __init__(self, turn: Turn, choices: int = 1):
        self._turn = turn
        self._choices = [Choice() for _ in range(choices)]

    def feed(self, deltas: Sequence[Delta], index: int = 0) -> bytes | None:
        """Take deltas of one answer; the body once the last one of all has come. Raises Broken."""
        for delta in deltas:
            self._choices[index].take(delta)
        ends = [choice.finished for choice in self._choices if choice.finished]
        return self._body([end.usage for end in ends]) if len(ends) == len(self._choices) else None

    def _body(self, used: list[Usage]) -> bytes:
        turn, total = self._turn, Usage(used[0].prompt_tokens, sum(one.completion_tokens for one in used), used[0].replayed)
        return _encode(
            {
                "id": turn.id,
                "object": "chat.completion",
                "created": turn.created,
                "model": turn.model,
                "system_fingerprint": FINGERPRINT,
                "service_tier": turn.handling.service,
                "choices": [choice.shape(index) for index, choice in enumerate(self._choices)],
                "usage": usage(total),
            }
        )
