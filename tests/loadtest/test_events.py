"""Events of the Responses API are read over several connections as one answer, and nothing that is missing goes unnoticed."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.events import Following


def event(number: int, kind: str, **more: Any) -> bytes:
    """An event as it comes."""
    return json.dumps({"type": kind, "sequence_number": number} | more).encode()


def answer(words: int) -> list[bytes]:
    """The events of a whole answer."""
    deltas = [event(at + 1, "response.output_text.delta", delta=f" w{at}") for at in range(words)]
    return [event(0, "response.created", response={"id": "resp_1"}), *deltas, event(words + 1, "response.completed", response={})]


def read(events: list[bytes], told: Following | None = None) -> Following:
    """What came of some events, one a second."""
    told = told or Following(0.0)
    for second, each in enumerate(events):
        told.read(each, second + 1.0)
    return told


def test_a_whole_answer_is_proper_and_timed() -> None:
    told = read([*answer(3), b"[DONE]"])
    told.end(9.0)
    assert (told.proper, told.id, told.number, told.text, told.tokens) == (True, "resp_1", 4, " w0 w1 w2", 3)
    assert (told.ttft, told.gaps, told.e2e) == (2.0, [1.0, 1.0], 5.0)


@given(st.integers(1, 20), st.lists(st.integers(0, 21), max_size=4), st.integers(0, 3))
def test_connections_that_overlap_give_one_answer(words: int, cuts: list[int], overlap: int) -> None:
    events, told = answer(words), Following(0.0, resumable=True)
    seen = 0
    for cut in [*sorted(min(cut, words + 2) for cut in cuts), words + 2]:
        read(events[max(seen - overlap, 0) : cut], told)
        told.end(99.0)
        seen = max(seen, cut)
        if not seen:
            told = Following(0.0, resumable=True)  # it had no id yet, so it has failed
    assert told.proper
    assert (told.lost, told.tokens) == (0, words)


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_a_missing_event_is_counted(missing: int) -> None:
    events = answer(4)
    assert read(events[:missing] + events[missing + 1 :]).lost == 1


def test_a_repeated_event_is_counted_and_not_read_twice() -> None:
    events = answer(2)
    told = read([*events[:2], *events[1:]])
    assert (told.again, told.tokens, told.proper) == (1, 2, True)


def test_a_body_that_ends_early_is_a_silent_failure_unless_another_connection_goes_on() -> None:
    told = read(answer(3)[:-1])
    told.end(9.0)
    assert (told.error, told.silent, told.over) == ("ended early", True, True)
    resumed = read(answer(3)[:-1], Following(0.0, resumable=True))
    resumed.end(9.0)
    assert (resumed.error, resumed.over) == (None, False)


def test_a_connection_that_breaks_is_told_and_not_silent() -> None:
    told = read(answer(3)[:2])
    told.end(9.0, "ConnectionResetError")
    assert (told.error, told.silent) == ("ConnectionResetError", False)


@pytest.mark.parametrize(
    ("last", "error"),
    [
        (event(2, "response.failed", response={"error": {"code": "server_error"}}), "server_error"),
        (event(2, "response.incomplete", response={"incomplete_details": {"reason": "content_filter"}}), "content_filter"),
        (b"{", "malformed event"),
        (b'{"type": "response.created", "sequence_number": 2}', "malformed event"),
    ],
)
def test_what_ends_an_answer_badly_is_its_error(last: bytes, error: str) -> None:
    told = read([*answer(1)[:2], last])
    assert (told.error, told.proper, told.silent, told.over) == (error, False, False, True)


def test_an_answer_as_long_as_it_may_be_is_whole() -> None:
    last = event(2, "response.incomplete", response={"incomplete_details": {"reason": "max_output_tokens"}})
    assert read([*answer(1)[:2], last]).proper


def test_a_refusal_over_a_socket_has_its_status_and_whether_to_come_back() -> None:
    told = read([b'{"type": "error", "status": 503, "code": "overloaded", "error": {"retry_after_ms": 900}}'])
    assert (told.status, told.retry_after, told.error, told.over) == (503, True, "overloaded", True)


def test_a_socket_that_is_too_old_ends_no_answer() -> None:
    told = read(
        [b'{"type": "error", "status": 400, "code": "websocket_connection_limit_reached"}', *answer(2)], Following(0.0, resumable=True)
    )
    assert told.proper
