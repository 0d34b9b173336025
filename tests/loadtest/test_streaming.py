"""The reader finds every event however the bytes are cut, and the reading says what the client saw."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.streaming import Events, Order, Reading, order

STREAM = (
    b": keep-alive\n\n"
    b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
    b"event: ignored\r\ndata:no space\r\n\r\n"
    b"data: two\ndata: lines\n\n\n"
    b"id: 7\nretry: 3\n\n" + 'data: {"text":"Grüße 世界 \u2028"}\n\n'.encode() + b"data: [DONE]\n\n"
    b"data: no blank line after this"
)
EVENTS = [
    b'{"choices":[{"delta":{"role":"assistant","content":""}}]}',
    b"no space",
    b"two\nlines",
    '{"text":"Grüße 世界 \u2028"}'.encode(),
    b"[DONE]",
]


def event(content: str | None = None, finish: str | None = None, **more: object) -> bytes:
    """One chunk as it comes in `data:`."""
    delta = {} if content is None else {"content": content}
    return json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}).encode()


def reading(*events: tuple[float, bytes]) -> Reading:
    """A reading of these events, sent at 0."""
    found = Reading(sent=0.0)
    for now, data in events:
        found.read(data, now)
    return found


def test_every_split_in_two_gives_the_same_events() -> None:
    for place in range(len(STREAM) + 1):
        events = Events()
        assert events.feed(STREAM[:place]) + events.feed(STREAM[place:]) == EVENTS


@given(st.lists(st.integers(0, len(STREAM)), max_size=40))
def test_any_cut_gives_the_same_events(places: list[int]) -> None:
    events, found = Events(), list[bytes]()
    edges = [0, *sorted(places), len(STREAM)]
    for start, end in pairwise(edges):
        found += events.feed(STREAM[start:end])
    assert found == EVENTS


def test_the_first_token_is_the_first_content() -> None:
    found = reading(
        (1.0, event("")),
        (1.5, event(None)),
        (2.0, event("w0")),
        (2.5, event(" w1 w2")),
        (2.75, event(" w3")),
        (3.0, event(None, "stop")),
        (3.0, b'{"choices":[],"usage":{"total_tokens":4}}'),
        (3.25, b"[DONE]"),
    )
    found.end(4.0)
    assert (found.ttft, found.gaps, found.e2e) == (2.0, [0.5, 0.25], 3.25)
    assert (found.text, found.tokens, found.usage) == ("w0 w1 w2 w3", 4, {"total_tokens": 4})
    assert found.proper
    assert found.error is None


@pytest.mark.parametrize("pieces", [["one two", " three"], ["o", "ne", " ", "two", " th", "ree"], ["one ", "two three\n"]])
def test_tokens_are_words_however_deltas_are_cut(pieces: list[str]) -> None:
    assert reading(*((1.0, event(piece)) for piece in pieces)).tokens == 3


@pytest.mark.parametrize(
    ("events", "error"),
    [
        ([], "no text"),
        ([event(None, "stop"), b"[DONE]"], "no text"),
        ([event("w0")], "ended early"),
        ([event("w0"), event(None, "stop")], "ended early"),
        ([event("w0"), b"[DONE]"], "ended early"),
        ([event("w0"), b'{"error":{"type":"server_error","code":"gone"}}'], "gone"),
        ([event("w0"), b'{"cut'], "malformed event"),
        ([event("w0"), b"[]", event(None, "stop"), b"[DONE]"], "malformed event"),
    ],
)
def test_what_does_not_end_properly_is_an_error(events: list[bytes], error: str) -> None:
    found = reading(*((1.0, data) for data in events))
    found.end(2.0)
    assert found.error == error
    assert not found.proper


def test_a_lost_connection_is_the_error() -> None:
    found = reading((1.0, event("w0")))
    found.end(2.0, "ConnectionError")
    assert (found.error, found.e2e) == ("ConnectionError", 2.0)


@pytest.mark.parametrize(
    ("text", "expected", "found"),
    [
        ("w0 w1 w2", None, Order(0, 0, 0)),
        ("w0 w1[1] w2. [2]", 3, Order(0, 0, 0)),
        ("w0 w2", None, Order(1, 0, 0)),
        ("w0 w1", 4, Order(2, 0, 0)),
        ("w0 w1 w1 w2", 3, Order(0, 1, 0)),
        ("w0 w2 w1", 3, Order(0, 0, 1)),
    ],
)
def test_order_finds_loss_repetition_and_disorder(text: str, expected: int | None, found: Order) -> None:
    assert order(text, expected) == found


@pytest.mark.parametrize("text", ["", "an ordinary answer", "see w3 in the long list of all the words"])
def test_order_does_not_judge_other_texts(text: str) -> None:
    assert order(text) is None
