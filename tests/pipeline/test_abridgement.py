"""Passages cut to a token budget."""

import re

from hypothesis import given
from hypothesis import strategies as st

from deployments.core.types import Chunk, Passage
from pipeline.abridgement import abridge

MILL = (
    "# Mills\n\nMills are old. The headrace brings water to the wheel.\n\n"
    "## Bread\n\nBread rises in a warm place. It takes hours.\n\n"
    "## Water\n\nHere is how the water is let in:\n\n```python\nwheel.open()\n\nwheel.turn()\n```\n\n"
    "| part | use |\n|---|---|\n| weir | holds |\n\nThe tailrace leads the used water away from the wheel."
)
TOWN = "The town has a church. The town has a market. Its river has three weirs. People like the town."


def passage(number: int, text: str) -> Passage:
    return Passage(f"file{number}", f"{number}.md", "Title", Chunk(0, text, ("Title",), 0, len(text), len(text) // 4), 0.5, 0.6)


def texts(question: str, *passages: str, share: float, earlier: tuple[str, ...] = ()) -> list[str]:
    found = [passage(number, text) for number, text in enumerate(passages)]
    limit = int(share * sum(one.chunk.tokens for one in found))
    made = abridge(question, found, limit, earlier)
    assert sum(one.chunk.tokens for one in made) <= limit + len(made)
    return [one.chunk.text for one in made]


def test_passages_that_fit_stay_as_they_are() -> None:
    found = [passage(0, MILL), passage(1, TOWN)]
    assert abridge("What?", found, sum(one.chunk.tokens for one in found)) == tuple(found)


def test_the_sentences_that_speak_to_the_question_stay_under_their_heading() -> None:
    kept = texts("Where does the tailrace lead the used water?", MILL, TOWN, share=0.25)
    assert re.search(r"## Water\s+The tailrace leads the used water away from the wheel\.", kept[0])
    assert "## Bread" not in kept[0]


def test_code_and_tables_are_whole_or_not_there() -> None:
    code, table = "```python\nwheel.open()\n\nwheel.turn()\n```", "| part | use |\n|---|---|\n| weir | holds |"
    for tenths in range(10):
        for question in ("wheel.turn()", "Which part holds the water, the weir?", "How long does bread rise?"):
            kept = "\n".join(texts(question, MILL, share=tenths / 10))
            assert ("```" in kept) == (code in kept)
            assert ("|" in kept) == (table in kept)
    assert code in texts("What does wheel.turn() do after wheel.open()?", MILL, share=0.5)[0]


def test_a_short_follow_up_is_understood_from_the_question_before() -> None:
    assert "three weirs" in texts("How many?", TOWN, MILL, share=0.1, earlier=("Does the river have weirs?",))[0]


def test_what_two_passages_say_is_there_once() -> None:
    kept = texts("Has the river weirs?", TOWN, TOWN, share=0.5)
    assert len(kept) == 1
    assert sorted(re.findall(r"[^.]+\.", kept[0])) == sorted(re.findall(r"[^.]+\.", TOWN))


@given(st.text(), st.lists(st.text(alphabet="ab. \n#|`~-:", max_size=200), max_size=4), st.integers(0, 60))
def test_what_is_kept_is_in_order_and_within_the_limit(question: str, passages: list[str], limit: int) -> None:
    found = [passage(number, text) for number, text in enumerate(passages)]
    made = abridge(question, found, limit)
    assert [one.file_id for one in made] == [one.file_id for one in found if one.file_id in {other.file_id for other in made}]
    assert sum(one.chunk.tokens for one in made) <= limit + len(made)
    for one in made:
        whole = iter(passages[int(one.file_id.removeprefix("file"))])
        assert all(character in whole for character in one.chunk.text)
