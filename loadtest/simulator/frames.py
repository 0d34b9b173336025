"""Frames are the bytes of an answer: HTTP/1.1 heads, SSE events in HTTP chunks, JSON bodies."""

from collections.abc import Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import Any

import orjson

from loadtest.simulator.plan import numbered

STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n"
STATUSES = frozenset(HTTPStatus)
END = b"0\r\n\r\n"


@lru_cache(maxsize=8192)
def _quoted(word: str) -> bytes:
    return orjson.dumps(word)[1:-1]


def response(status: int, payload: Any, retry_after_s: float | None = None) -> bytes:
    """Return a whole JSON response."""
    body = orjson.dumps(payload)
    phrase = HTTPStatus(status).phrase if status in STATUSES else "Unnamed"
    head = f"HTTP/1.1 {status} {phrase}\r\ncontent-type: application/json\r\n"
    if retry_after_s is not None:
        head += f"retry-after: {retry_after_s:g}\r\nretry-after-ms: {retry_after_s * 1000:.0f}\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def failure(status: int, message: str, code: str, retry_after_s: float | None = None) -> bytes:
    """Return an error in OpenAI's envelope."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    error = {"message": message, "type": kind, "param": None, "code": code}
    return response(status, {"error": error}, retry_after_s)


def usage(prompt: int, completion: int) -> dict[str, int]:
    """Return OpenAI's usage object."""
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def completion(id: str, created: int, model: str, text: str, finish: str, used: dict[str, int]) -> dict[str, Any]:
    """Return the body of an answer that is not streamed."""
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
    return {
        "id": id,
        "object": "chat.completion",
        "created": created,
        "model": model,
        "system_fingerprint": "fp_sim",
        "choices": [choice],
        "usage": used,
    }


class Frames:
    """The events of one streamed answer, each as a ready HTTP chunk."""

    def __init__(self, id: str, created: int, model: str, include_usage: bool) -> None:
        known = {
            "id": id,
            "object": "chat.completion.chunk",
            "created": created,
            "model": model,
            "system_fingerprint": "fp_sim",
        }
        self._head = b"data: " + orjson.dumps(known)[:-1] + b',"choices":['
        self._tail = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"
        self._word_head = self._head + b'{"index":0,"delta":{"content":"'
        self._word_tail = b'"},"logprobs":null,"finish_reason":null}' + self._tail
        self._fixed = len(self._word_head) + len(self._word_tail)
        self._include_usage = include_usage

    def role(self) -> bytes:
        """Return the first event, which names the speaker and says nothing."""
        return self._event(b'{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}')

    def word(self, word: str) -> bytes:
        """Return the event of one word."""
        text = _quoted(word)
        return b"%x\r\n%b%b%b\r\n" % (self._fixed + len(text), self._word_head, text, self._word_tail)

    def call(self, name: str, pieces: Sequence[str]) -> bytes:
        """Return the events of a call of a function, its arguments in pieces."""
        first = {"index": 0, "id": "call_sim", "type": "function", "function": {"name": name, "arguments": ""}}
        calls = [first, *({"index": 0, "function": {"arguments": piece}} for piece in pieces)]
        shape = b'{"index":0,"delta":{"tool_calls":[%b]},"logprobs":null,"finish_reason":null}'
        return b"".join(self._event(shape % orjson.dumps(call)) for call in calls)

    def malformed(self) -> bytes:
        """Return an event that ends in the middle of its JSON."""
        return _chunk(self._word_head + b"broken\n\n")

    def end(self, finish: str, prompt: int, words: int) -> bytes:
        """Return the last events, up to the end of the HTTP body."""
        last = b'{"index":0,"delta":{},"logprobs":null,"finish_reason":"%b"}' % finish.encode()
        frames = [self._event(last)]
        if self._include_usage:
            counted = orjson.dumps(usage(prompt, words))
            frames.append(_chunk(self._head + b'],"usage":' + counted + b"}\n\n"))
        frames += [_chunk(b"data: [DONE]\n\n"), END]
        return b"".join(frames)

    def _event(self, choice: bytes) -> bytes:
        return _chunk(self._head + choice + self._tail)


def text(words: Sequence[str] | int) -> str:
    """Return the whole text of a plan's words."""
    return "".join(numbered(index) for index in range(words)) if isinstance(words, int) else "".join(words)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)
