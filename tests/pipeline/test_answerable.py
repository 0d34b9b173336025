"""How well the passages that were found speak to a question."""

from deployments.core.types import Chunk, Passage
from pipeline.answerable import LEAST, answerable


def passage(text: str, similarity: float, title: str = "") -> Passage:
    return Passage("file", "a.md", title, Chunk(0, text, (), 0, len(text), 50), similarity, similarity)


def test_without_a_passage_there_is_no_support() -> None:
    assert answerable("What is a headrace?", []) == 0
    assert answerable("", []) < LEAST


def test_a_passage_with_the_words_of_the_question_supports_it_more_than_a_close_one_without() -> None:
    question = "Which port does the tailrace service use?"
    with_words = passage("The tailrace service uses the port 8080.", 0.4)
    assert answerable(question, [with_words]) > answerable(question, [passage("Water leaves by a channel.", 0.45)])


def test_the_best_passage_counts_and_its_title_with_it() -> None:
    weak, titled = passage("Something else.", 0.1), passage("It brings water.", 0.5, title="Headrace")
    assert answerable("headrace", [weak, titled]) == answerable("headrace", [titled, weak]) > answerable("headrace", [weak])


def test_a_question_without_content_words_is_judged_by_meaning_alone() -> None:
    assert answerable("What is it?", [passage("A mill.", 0.7)]) == 0.7
