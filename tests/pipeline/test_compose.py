"""The prompt of a turn."""

from deployments.core.types import Message, ToolCall
from pipeline.prompts.compose import GROUNDED, NOTHING_FOUND, compose
from tests.pipeline.test_citations import PASSAGES

ASKED = (Message("system", "Be kind."), Message("user", "Earlier?"), Message("assistant", "Yes."), Message("user", "What is CORS?"))


def test_a_turn_that_did_not_search_is_passed_through() -> None:
    assert compose(ASKED, (), searched=False) == ASKED


def test_passages_go_before_the_last_question_and_nowhere_else() -> None:
    system, *rest = compose(ASKED, PASSAGES[:1], searched=True)
    assert system == Message("system", f"{GROUNDED}\n\nBe kind.")
    assert rest[:2] == list(ASKED[1:3])
    assert rest[2].role == "user"
    assert rest[2].content.startswith("Sources:\n\n[1] CORS")
    assert rest[2].content.endswith("Question: What is CORS?")


def test_calls_and_their_results_stay_as_they_are_behind_the_question() -> None:
    called = (
        Message("assistant", "", calls=(ToolCall("call_1", "f", "{}"), ToolCall("call_2", "g", "{}"))),
        Message("tool", "42", call_id="call_1"),
        Message("tool", "43", call_id="call_2"),
    )
    made = compose((*ASKED, *called), PASSAGES[:1], searched=True)
    assert made[-3:] == called
    assert "Sources:" in made[-4].content


def test_a_search_that_found_nothing_says_so() -> None:
    assert compose(ASKED, (), searched=True) == (Message("system", f"{NOTHING_FOUND}\n\nBe kind."), *ASKED[1:])


def test_a_conversation_without_a_question_is_left_alone() -> None:
    only = (Message("assistant", "Hello."),)
    assert compose(only, PASSAGES, searched=True)[1:] == only
