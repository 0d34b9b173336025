import pytest

from deployments.core.types import Message
from pipeline.followup import MAX_CHARS, Asked, asked, stands

BEFORE = (
    Message("system", "Speak plainly"),
    Message("user", "Who built the mill?"),
    Message("assistant", "Nobody knows."),
    Message("user", "What is a headrace?"),
    Message("assistant", "A channel that brings water to the wheel. " * 20),
)


@pytest.mark.parametrize(
    "question",
    [
        "How much does it cost?",
        "And in winter?",
        "What about the tailrace?",
        "Why?",
        "Tell me more about those",
        "Was kostet dieser?",
        "Combien coûte celui de Paris ?",
        "¿Y cuánto cuesta ese?",
        "それはいくらですか",
        "它多少钱",
    ],
)
def test_a_question_that_points_back_can_not_stand_alone(question: str):
    assert not stands(question)


@pytest.mark.parametrize(
    "question",
    ["Cesarean section", "What is an Intent?", "How do I return a 404 when an item does not exist?", "Android", "Wer baute die Mühle?", ""],
)
def test_a_question_that_names_its_subject_stands_alone_however_short(question: str):
    assert stands(question)


def test_what_stands_alone_is_searched_for_as_it_is():
    assert asked("What is a tailrace?", BEFORE) == Asked("What is a tailrace?", "What is a tailrace?")


def test_a_follow_up_is_searched_for_with_the_question_before_it_and_means_the_answer_too():
    found = asked("How long is it?", BEFORE)
    assert found.text == "How long is it?\nWhat is a headrace?"
    assert found.meaning == f"{found.text}\n{BEFORE[-1].content[:MAX_CHARS]}"


def test_where_nothing_was_said_before_there_is_nothing_to_add():
    assert asked("How long is it?", BEFORE[:1]) == Asked("How long is it?", "How long is it?")
    assert asked("How long is it?", [Message("user", "   ")]).text == "How long is it?"
    assert asked("How long is it?", [Message("user", "A mill")]) == Asked("How long is it?\nA mill", "How long is it?\nA mill")
