"""Which sentences of the passages are put before the model."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from deployments.core.types import Chunk, Passage
from pipeline.excerpts import LIMIT, MAX_CHARS, Excerpt, compress, excerpts, sentences

MILL = (
    "# Mills\n\nA headrace is the channel that brings water to the wheel of a mill. See [the guide](../guide.md){.internal-link}.\n\n"
    "```python\nA headrace is not a sentence of code at all here.\n```\n\n"
    "* The [tailrace](../tail.md) leads the used water away from the wheel.\n\n| A table | row about water wheels here. |\n"
)
BREAD = "Bread rises in a warm place for about two hours. Sorry, no information about the water in the dough could be found here."


def passage(number: int, text: str, score: float = 0.5) -> Passage:
    return Passage(f"file{number}", f"{number}.md", "Title", Chunk(0, text, (), 0, len(text), 50), score, 0.6)


def test_prose_is_quoted_and_nothing_else() -> None:
    assert list(sentences(MILL)) == [
        "A headrace is the channel that brings water to the wheel of a mill.",
        "The tailrace leads the used water away from the wheel.",
    ]


def test_a_refusal_is_no_answer() -> None:
    assert list(sentences(BREAD)) == ["Bread rises in a warm place for about two hours."]


def test_parts_of_sentences_are_left_out() -> None:
    assert list(sentences("and from it import the submodule items. It listens on the port of the server (e.g. the first one).")) == []
    assert list(sentences(f"A {'long ' * MAX_CHARS}sentence about many water wheels.")) == []


def test_the_sentence_with_the_words_of_the_question_is_first() -> None:
    found = excerpts("What leads the water away from the wheel?", [passage(0, BREAD), passage(1, MILL)])
    assert found[0] == Excerpt(1, "The tailrace leads the used water away from the wheel.")


def test_a_sentence_that_two_passages_hold_counts_for_the_better() -> None:
    found = excerpts("How long does bread rise?", [passage(0, BREAD, 0.2), passage(1, BREAD, 0.9)])
    assert found == (Excerpt(1, "Bread rises in a warm place for about two hours."),)


def test_passages_are_compressed_to_their_chosen_sentences() -> None:
    passages = [passage(0, BREAD), passage(1, MILL), passage(2, "Code only.")]
    kept = compress(passages, excerpts("What brings water to the wheel of a mill?", passages))
    assert [p.file_id for p in kept] == ["file1", "file0"]
    assert kept[0].chunk.text.startswith("A headrace is the channel")
    assert "```" not in kept[0].chunk.text


def test_a_record_is_quoted_whole() -> None:
    def record(number: int, text: str, **fields: str | float) -> Passage:
        return msgspec.structs.replace(passage(number, text), chunk=Chunk(0, text, (), 0, len(text), 9, dict(fields)))

    goods = [record(0, "name: rope\nprice: 3", name="rope", price=3), record(1, "name: anvil\nprice: 12.5", name="anvil", price=12.5)]
    assert [one.text for one in excerpts("What is the price of an anvil?", goods)] == ["name: anvil, price: 12.5", "name: rope, price: 3"]
    assert excerpts("anvil?", [record(0, f"name: {'anvil ' * MAX_CHARS}", name="anvil")]) == ()


def test_passages_without_prose_give_nothing() -> None:
    assert excerpts("What?", [passage(0, "```\ncode\n```")]) == ()
    assert excerpts("What?", []) == ()


@given(st.text(), st.lists(st.text(max_size=400), max_size=5))
def test_any_text_is_taken(question: str, texts: list[str]) -> None:
    found = excerpts(question, [passage(number, text) for number, text in enumerate(texts)])
    assert len(found) <= LIMIT
    assert len({excerpt.text for excerpt in found}) == len(found)
