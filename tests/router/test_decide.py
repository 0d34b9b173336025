"""The routing decision."""

import numpy as np
import pytest

from deployments.core.config import Settings
from deployments.core.errors import NoSuchModel
from deployments.core.sections import Generator, Router
from deployments.core.types import Message, Principal, Sampling, Turn
from deployments.router.decide import decide
from deployments.router.score import Complexity

VECTOR = np.full(384, 384**-0.5, np.float32)


def turn(model: str, store_id: str | None = "vs_1") -> Turn:
    return Turn("r", Principal("t", "k", frozenset()), model, (Message("user", "Hi"),), Sampling(), 0, 1, store_id)


def test_the_grounded_model_retrieves() -> None:
    route = decide(turn("headrace"), VECTOR, Settings(generator=Generator(context_tokens=700)), None)
    assert route.retrieve
    assert route.context_tokens == 700


def test_the_direct_model_never_retrieves() -> None:
    assert not decide(turn("headrace-direct"), VECTOR, Settings(), None).retrieve


def test_where_there_is_no_store_nothing_is_retrieved() -> None:
    assert not decide(turn("headrace", None), VECTOR, Settings(), None).retrieve


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(NoSuchModel):
        decide(turn("other"), VECTOR, Settings(), None)


def test_without_tiers_a_route_has_none() -> None:
    assert decide(turn("headrace"), VECTOR, Settings(), None).tier is None


@pytest.mark.parametrize("model", ["headrace", "headrace-direct"])
def test_the_tier_turns_where_the_score_reaches_the_threshold(model: str) -> None:
    complexity = Complexity.load()
    score = complexity.score("Hi", VECTOR)
    at, over = (decide(turn(model), VECTOR, Settings(router=Router(threshold=one)), complexity) for one in (score, score + 0.01))
    assert (at.tier, over.tier) == ("large", "small")


def test_the_reason_states_score_and_threshold() -> None:
    complexity = Complexity.load()
    reason = decide(turn("headrace"), VECTOR, Settings(router=Router(threshold=0.25)), complexity).reason
    assert f"complexity {complexity.score('Hi', VECTOR):.2f}" in reason
    assert reason.endswith("0.25")
