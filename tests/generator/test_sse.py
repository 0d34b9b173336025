"""The reader of a backend's event stream."""

import json
import tracemalloc
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.core.errors import BackendFailed
from deployments.core.types import Logprob, Usage
from deployments.generator.sse import CallPiece, EventReader, Piece


def event(text: str | None = None, reason: str | None = None) -> bytes:
    chunk = {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": reason}]}
    return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n".encode()


STREAM = (
    b": hello\n\n"
    + event("")
    + event("Grüße ")
    + event("😀\n")
    + event("\u2028 end")
    + event(None, "stop")
    + b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}\n\n'
    + b"data: [DONE]\n\n"
)


def read(parts: list[bytes]) -> Piece:
    reader = EventReader()
    pieces = [reader.feed(part) for part in parts]
    reasons = [piece.reason for piece in pieces if piece.reason]
    usages = [piece.usage for piece in pieces if piece.usage]
    text, chunks = "".join(piece.text for piece in pieces), sum(piece.chunks for piece in pieces)
    return Piece(text, chunks=chunks, reason=reasons[-1], usage=usages[-1], done=pieces[-1].done)


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_any_cut_reads_the_same(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    parts = [STREAM[a:b] for a, b in pairwise(edges)]
    parts = [part for part in parts if part] or [STREAM]
    assert read(parts) == Piece("Grüße 😀\n\u2028 end", chunks=3, reason="stop", usage=Usage(3, 4), done=True)


def test_single_bytes_read_the_same() -> None:
    assert read([STREAM[i : i + 1] for i in range(len(STREAM))]).text == "Grüße 😀\n\u2028 end"


@pytest.mark.parametrize(
    "stream",
    [
        STREAM.replace(b"\n", b"\r\n"),
        b"\xef\xbb\xbf" + STREAM,
        STREAM.replace(b"data: ", b"data:"),
        b"event: message\nid: 7\n" + STREAM,
    ],
    ids=["crlf", "bom", "no space", "other fields"],
)
def test_what_servers_do_differently_reads_the_same(stream: bytes) -> None:
    assert read([stream]).text == "Grüße 😀\n\u2028 end"


@pytest.mark.parametrize(
    "stream",
    [
        b"data: {\n\n",
        b'data: {"choices":[{"delta":{"content":7}}]}\n\n',
        b'data: {"choices":[]}{"choices":[]}\n\n',
        b'data: {"choices":[{"delta":{"content":"\xff"}}]}\n\n',
        b'data: {"error":{"message":"secret"}}\n\n',
        b"data: [1]\n\n",
        b"data: " + b"x" * (2 << 20),
        b"data: x\n" * (1 << 20),
    ],
    ids=["cut", "number", "two objects", "not utf-8", "error", "array", "endless line", "endless event"],
)
def test_what_is_no_answer_is_a_typed_error(stream: bytes) -> None:
    reader = EventReader()
    with pytest.raises(BackendFailed) as error:
        [reader.feed(stream[at : at + 65536]) for at in range(0, len(stream), 65536)]
    assert "secret" not in error.value.message


def test_no_event_is_done_before_its_blank_line() -> None:
    assert EventReader().feed(event("x")[:-1]) == Piece()


def test_calls_and_probabilities_are_read() -> None:
    calls = [{"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}]
    more = [{"index": 0, "function": {"arguments": '{"a":1}'}}]
    token = {"token": "Hi", "logprob": -0.5, "bytes": None, "top_logprobs": [{"token": "Ho", "logprob": -1.5, "bytes": None}]}
    choices = [
        {"delta": {"tool_calls": calls}},
        {"delta": {"tool_calls": more}},
        {"delta": {"content": "Hi"}, "logprobs": {"content": [token]}},
    ]
    stream = "".join(f"data: {json.dumps({'choices': [{'index': 0} | choice]})}\n\n" for choice in choices)
    piece = EventReader().feed(stream.encode())
    assert piece.calls == (CallPiece(0, "call_1", "f", ""), CallPiece(0, None, None, '{"a":1}'))
    assert piece.logprobs == (Logprob("Hi", -0.5, (Logprob("Ho", -1.5),)),)


def test_text_in_front_of_what_is_no_answer_is_not_lost() -> None:
    reader = EventReader()
    good = b'data: {"choices":[{"delta":{"content":"one"}}]}\n\n'
    assert reader.feed(good + b"data: {broken\n\n" + good).text == "one"
    with pytest.raises(BackendFailed):
        reader.feed(b"")


def spoilt(chance: Random) -> bytes:
    """A stream with a few bytes lost, doubled, changed or put in."""
    stream = bytearray(STREAM)
    for _ in range(chance.randint(1, 6)):
        at, size = chance.randrange(len(stream)), chance.randint(1, 12)
        part = bytes(stream[at : at + size])
        stream[at : at + size] = chance.choice(
            [b"", part * 2, chance.randbytes(size), b"\n\n", b"data: ", b"\r\n", b"\xef\xbb\xbf", b"{}", b"\x00"]
        )
    return bytes(stream)


def test_a_thousand_spoilt_streams_give_pieces_or_a_typed_error_in_bounded_memory() -> None:
    chance, failed = Random(14), 0
    tracemalloc.start()
    for _ in range(1000):
        reader, stream, at = EventReader(), spoilt(chance), 0
        try:
            while at < len(stream):
                size = chance.choice([1, 3, 50, 4096])
                reader.feed(stream[at : at + size])
                at += size
        except BackendFailed:
            failed += 1
    most_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0 < failed < 1000
    assert most_bytes < 20 << 20
