"""What of a turn's context goes into its prompt."""

import msgspec
import pytest

from deployments.core.estimate import length
from deployments.core.types import Chunk, Message, Passage, Principal, Sampling, Turn
from pipeline.prompts.fit import Dropped, fit, prompt

NOTES = (Message("system", "Summary of the conversation so far: " + "x" * 364),)
FIRST = "The headrace brings water to the wheel of the mill. " * 4
SECOND = "The tailrace takes the water away from the wheel again. " * 4


def passages(*texts: str) -> list[Passage]:
    return [Passage(f"file-{n}", "a.md", "A", Chunk(n, text, (), 0, len(text), 100), 1 - n / 10, 0.6) for n, text in enumerate(texts)]


def test_what_fits_goes_in_as_it_is() -> None:
    fitted = fit("water?", NOTES, passages(FIRST, SECOND), 200, 300)
    assert (fitted.notes, list(fitted.passages), fitted.dropped) == (NOTES, passages(FIRST, SECOND), Dropped())


def test_without_a_bound_on_the_prompt_the_routes_budget_of_passages_holds() -> None:
    fitted = fit("water?", NOTES, passages(FIRST, SECOND), 100)
    assert fitted.notes == NOTES
    assert sum(one.chunk.tokens for one in fitted.passages) <= 102
    assert fitted.dropped.passage_tokens >= 98


def test_the_summary_goes_first_and_passages_take_what_is_left() -> None:
    fitted = fit("water?", NOTES, passages(FIRST, SECOND), 200, 160)
    assert fitted.notes == NOTES
    assert 0 < sum(one.chunk.tokens for one in fitted.passages) <= 62
    assert fitted.dropped.summary_tokens == 0


def test_a_summary_for_which_there_is_no_room_is_told_of() -> None:
    assert fit("water?", NOTES, [], 200, 50).dropped == Dropped(summary_tokens=100)


def test_where_there_is_no_room_at_all_everything_is_told_of() -> None:
    fitted = fit("water?", NOTES, passages(FIRST, SECOND), 200, -5)
    assert (fitted.notes, fitted.passages) == ((), ())
    assert fitted.dropped == Dropped(summary_tokens=100, passage_tokens=200, passages=2)


@pytest.mark.parametrize("longest", [120, 200, 300])
def test_a_prompt_is_as_long_as_it_may_be_as_backends_are_chosen_by(longest: int) -> None:
    wide = [msgspec.structs.replace(one, title="A long title " * 5) for one in passages(FIRST, SECOND)]
    cheap = [
        msgspec.structs.replace(one, chunk=msgspec.structs.replace(one.chunk, tokens=20)) for one in wide
    ]  # under a token in 4 characters
    asked = Turn("r", Principal("t", "k", frozenset()), "headrace", (Message("user", "water?"),), Sampling(), 0, 5)
    fitted = prompt(asked, "Answer.", (), cheap, 200, longest)
    assert length(fitted.messages) <= longest
    assert fitted.passages
    unbound = prompt(asked, "Answer.", (), cheap, 200, None)
    assert len(unbound.passages) == 2
    assert length(unbound.messages) > 120
