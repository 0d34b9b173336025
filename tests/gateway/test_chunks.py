"""Deltas of an answer as a streamed and as a whole chat completion."""

import json
from typing import Any

import pytest

from deployments.core.errors import StreamInterrupted
from deployments.core.types import Called, Cancelled, Delta, Finished, Message, Opened, Principal, Sampling, Text, Turn, Usage
from deployments.gateway.chunks import ChatBody, ChatStream

TURN = Turn("chatcmpl-1", Principal("t", "k", frozenset()), "headrace", (Message("user", "Hi"),), Sampling(), 1_700_000_000, 10)


def choices(stream: bytes) -> list[dict[str, Any]]:
    chunks = [json.loads(block.removeprefix(b"data: ")) for block in stream.split(b"\n\n")[:-1] if block != b"data: [DONE]"]
    return [choice for chunk in chunks for choice in chunk["choices"]]


def test_calls_have_the_golden_order() -> None:
    deltas: list[Delta] = [
        Opened(0),
        Called(1, 0, "call_1", "f", ""),
        Called(2, 0, None, None, '{"a":'),
        Called(3, 0, None, None, "1}"),
        Called(4, 1, "call_2", "g", "{}"),
        Finished(5, "tool_calls", Usage(1, 2)),
    ]
    encoder = ChatStream(TURN, include_usage=False)
    seen = choices(encoder.start() + encoder.encode(deltas))
    assert [choice["delta"].get("tool_calls") for choice in seen[1:5]] == [
        [{"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}],
        [{"index": 0, "function": {"arguments": '{"a":'}}],
        [{"index": 0, "function": {"arguments": "1}"}}],
        [{"index": 1, "id": "call_2", "type": "function", "function": {"name": "g", "arguments": "{}"}}],
    ]
    assert (seen[-1]["delta"], seen[-1]["finish_reason"]) == ({}, "tool_calls")


def test_answers_side_by_side_end_once_with_the_prompt_counted_once() -> None:
    encoder = ChatStream(TURN, include_usage=True, choices=2)
    first = encoder.start() + encoder.encode([Text(1, "b")], 1) + encoder.encode([Text(1, "a"), Finished(2, "stop", Usage(7, 3))], 0)
    assert b"[DONE]" not in first
    last = encoder.encode([Finished(2, "length", Usage(7, 4))], 1)
    assert last.endswith(b"data: [DONE]\n\n")
    assert [choice["index"] for choice in choices(first + last)] == [0, 1, 1, 0, 0, 1]
    assert b'"prompt_tokens":7,"completion_tokens":7,"total_tokens":14' in last


def test_an_answer_that_was_cancelled_does_not_look_whole() -> None:
    encoder, whole = ChatStream(TURN, include_usage=False), ChatBody(TURN)
    told = encoder.encode([Text(1, "a"), Cancelled(2)])
    assert b'"code":"stream_interrupted"' in told
    assert b"[DONE]" not in told
    assert b'"finish_reason":"' not in told
    with pytest.raises(StreamInterrupted):
        whole.feed([Text(1, "a"), Cancelled(2)])
