"""The complexity score: its bounds, its cost, and that it is the one that was trained."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.core.types import Vector
from deployments.router.score import BUCKETS, READ_CHARS, WEIGHTS, Complexity, grams, surface

COMPLEXITY = Complexity.load()
VECTOR = np.full(384, 384**-0.5, np.float32)
CHOICES = "Which of these is a mill?\nA. A quern\nB. A loaf\nAnswer:"


def vectors() -> st.SearchStrategy[Vector]:
    return st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).standard_normal(384).astype(np.float32) / 20)


@given(st.text(max_size=300), vectors())
def test_any_text_has_a_score_between_0_and_1(text: str, vector: Vector) -> None:
    assert 0 <= COMPLEXITY.score(text, vector) <= 1


@pytest.mark.parametrize("text", ["", "x", "\ud800", "\0" * 5000, "é" * 100_000, '9 = \n"' * 50_000])
def test_odd_and_endless_texts_have_a_score_too(text: str) -> None:
    assert 0 <= COMPLEXITY.score(text, VECTOR) <= 1


def test_the_same_question_has_the_same_score_wherever_it_is_asked() -> None:
    assert Complexity.load().score("How do I scale a deployment?", VECTOR) == COMPLEXITY.score("How do I scale a deployment?", VECTOR)


def test_one_question_is_scored_as_in_a_batch() -> None:
    texts = ["How do I scale a deployment?", CHOICES, "why"]
    alone = [COMPLEXITY.raw([text], VECTOR[None])[0] for text in texts]
    assert alone == pytest.approx(COMPLEXITY.raw(texts, np.stack([VECTOR] * 3)), abs=1e-5)


def test_the_score_depends_on_the_text_and_on_its_embedding() -> None:
    other = np.where(np.arange(384) % 2, VECTOR, -VECTOR)
    asked = "How do I scale a deployment?"
    assert len({COMPLEXITY.score(asked, VECTOR), COMPLEXITY.score(asked, other), COMPLEXITY.score(f"{asked} {asked}", VECTOR)}) == 3


def test_the_words_of_a_question_with_choices_are_not_counted() -> None:
    assert not grams(CHOICES).any()
    assert grams(CHOICES.replace("\n", " ")).sum() > 0
    assert grams(CHOICES).shape == (BUCKETS,)


def test_a_surface_tells_lengths_digits_and_lines() -> None:
    length, words, digits, lines, quotes = surface('ab 12\n"c"')[:5]
    assert np.expm1([length, words, digits, lines, quotes]) == pytest.approx([9, 2, 2, 1, 2], rel=1e-5)


def test_of_an_endless_text_only_the_beginning_and_the_length_are_looked_at() -> None:
    asked = "How do I scale a deployment? " * 5000
    assert COMPLEXITY.score(asked, VECTOR) == COMPLEXITY.score(asked[:READ_CHARS] + "x" * (len(asked) - READ_CHARS), VECTOR)
    assert COMPLEXITY.score(asked, VECTOR) != COMPLEXITY.score(asked[:READ_CHARS], VECTOR)


def test_the_weights_are_small() -> None:
    assert WEIGHTS.stat().st_size <= 50_000
