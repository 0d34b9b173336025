"""Stop texts never leak, wherever a text is cut."""

from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from deployments.core.types import Logprob
from deployments.generator.stops import Spoken, Stops

LETTERS = st.text("abc", max_size=30)


@example("aca", ["c", "aca"], [2])
@given(LETTERS, st.lists(st.text("abc", min_size=1, max_size=4), max_size=3), st.lists(st.integers(0, 30), max_size=8))
def test_what_is_said_ends_before_the_first_stop_that_is_complete(text: str, stops: list[str], cuts: list[int]) -> None:
    filter_ = Stops(stops)
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    said = "".join(filter_.feed(text[a:b]) for a, b in pairwise(edges)) + filter_.flush()
    end = next((end for end in range(len(text) + 1) if text[:end].endswith(tuple(stops))), len(text))
    complete = [stop for stop in stops if text[:end].endswith(stop)]
    assert said == text[: end - max(map(len, complete), default=0)]
    assert filter_.stopped == bool(complete)


def test_no_more_is_held_back_than_may_become_a_stop() -> None:
    filter_ = Stops(["<end>"])
    assert filter_.feed("one <e two <en") == "one <e two "
    assert filter_.feed("ds") == "<ends"


def test_probabilities_are_told_with_their_text_and_never_those_of_a_stop() -> None:
    stops, spoken, told = Stops(["<end>"]), Spoken(), list[str]()
    for token in ("one", " <", "two", " <", "en", "d", ">", "more"):
        told += [one.token for one in spoken.feed([Logprob(token, -1.0)], stops.feed(token))]
    assert told == ["one", " <", "two"]
