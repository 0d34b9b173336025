"""What becomes of an answer is told from what its client read, whatever broke."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.chaos.answer import Answer, Fate, Kind

WORDS = 5


def answer(kind: Kind = Kind.RESPONSE) -> Answer:
    return Answer(kind, WORDS, 0.0)


def events(words: int = WORDS, last: str | None = "response.completed") -> list[dict[str, Any]]:
    """The events of a response of so many words."""
    found: list[dict[str, Any]] = [{"type": "response.created", "response": {"id": "resp_1"}}]
    found += [{"type": "response.output_text.delta", "delta": f" w{number}" if number else "w0"} for number in range(words)]
    if last:
        found.append({"type": last, "response": {"id": "resp_1", "error": {"code": "stream_interrupted"}}})
    return [event | {"sequence_number": number} for number, event in enumerate(found)]


def read(found: Answer, told: list[dict[str, Any]]) -> Answer:
    for event in told:
        found.event(event, 1.0)
    return found


def chunk(text: str, finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": text}, "finish_reason": finish}]}


def test_a_response_with_all_its_events_is_whole() -> None:
    whole = read(answer(), events())
    assert (whole.fate, whole.duplicated, whole.id) == (Fate.WHOLE, 0, "resp_1")


@given(st.lists(st.integers(0, WORDS + 1), max_size=6), st.integers(0, 3))
def test_a_response_read_over_many_connections_is_whole_and_nothing_twice(cuts: list[int], overlap: int) -> None:
    told, resumed = events(), answer()
    for cut in cuts:
        read(resumed, told[max(resumed.events - overlap, 0) : cut])
    read(resumed, told[max(resumed.events - overlap, 0) :])
    assert (resumed.fate, resumed.text, resumed.duplicated, resumed.skipped) == (Fate.WHOLE, "w0 w1 w2 w3 w4", 0, 0)


@given(st.integers(1, WORDS))
def test_a_completed_response_with_an_event_missing_is_a_silent_truncation(place: int) -> None:
    told = events()
    assert read(answer(), told[:place] + told[place + 1 :]).fate is Fate.SILENT


def test_a_completed_response_without_its_last_words_is_a_silent_truncation() -> None:
    assert read(answer(), events(words=WORDS - 1)).fate is Fate.SILENT


def test_text_said_again_under_new_numbers_is_counted() -> None:
    told = events(last=None)
    again = read(answer(), [*told, {"type": "response.output_text.delta", "delta": " w2", "sequence_number": len(told)}])
    assert again.duplicated


@pytest.mark.parametrize(("last", "fate"), [("response.failed", Fate.FAILED), ("response.incomplete", Fate.FAILED), (None, Fate.LOST)])
def test_a_response_that_breaks_off_has_failed_or_is_lost(last: str | None, fate: Fate) -> None:
    assert read(answer(), events(words=2, last=last)).fate is fate


def test_a_chat_that_breaks_off_is_cut_and_one_that_closes_properly_before_its_end_is_silent() -> None:
    cut, hushed = answer(Kind.CHAT), answer(Kind.CHAT)
    for each in (cut, hushed):
        each.chunk(chunk("w0 w1"), 1.0)
    hushed.hushed += 1
    assert (cut.fate, hushed.fate) == (Fate.CUT, Fate.SILENT)


def test_a_chat_is_whole_with_a_finish_reason_and_done_and_silent_without_the_reason() -> None:
    whole, unfinished = answer(Kind.CHAT), answer(Kind.CHAT)
    for each, finish in ((whole, "stop"), (unfinished, None)):
        each.chunk(chunk("w0 w1 w2 w3 w4", finish), 1.0)
        each.chunk(None, 2.0)
    assert (whole.fate, unfinished.fate) == (Fate.WHOLE, Fate.SILENT)


def test_an_error_event_ends_an_answer_by_its_code() -> None:
    failed = answer(Kind.CHAT)
    failed.chunk({"error": {"code": "stream_interrupted", "type": "server_error"}}, 1.0)
    assert (failed.fate, failed.error) == (Fate.FAILED, "stream_interrupted")


@pytest.mark.parametrize(
    ("status", "comes_back", "fate"),
    [(503, True, Fate.REFUSED), (429, True, Fate.REFUSED), (503, False, Fate.ERROR), (500, True, Fate.ERROR)],
)
def test_a_refusal_says_when_to_come_back(status: int, comes_back: bool, fate: Fate) -> None:
    refused = answer(Kind.CHAT)
    refused.refuse(status, comes_back, 1.0)
    assert refused.fate is fate


def test_the_longest_pause_between_two_pieces_is_kept() -> None:
    paused = answer(Kind.CHAT)
    for when in (1.0, 1.1, 3.1, 3.2):
        paused.chunk(chunk(" w"), when)
    assert paused.longest_gap_s == pytest.approx(2.0)
