"""The routing decision."""

from dataclasses import dataclass

import numpy as np
import pytest

from deployments.core.config import Settings
from deployments.core.handling import Handling, Service
from deployments.core.sections import Generator, Router
from deployments.core.types import Message, Principal, Sampling, Turn, Vector
from deployments.router.decide import decide
from deployments.router.score import Complexity

VECTOR = np.full(384, 384**-0.5, np.float32)


def turn(model: str = "headrace", store_id: str | None = "vs_1", deadline_s: float = 60, handling: Handling | None = None) -> Turn:
    who, messages, handling = Principal("t", "k", frozenset()), (Message("user", "Hi"),), handling or Handling()
    return Turn("r", who, model, messages, Sampling(), 0, deadline_s, store_id, handling=handling)


def test_the_grounded_model_retrieves() -> None:
    route = decide(turn("headrace"), VECTOR, Settings(generator=Generator(context_tokens=700)), None)
    assert route.retrieve
    assert route.context_tokens == 700


def test_the_direct_model_never_retrieves() -> None:
    assert not decide(turn("headrace-direct"), VECTOR, Settings(), None).retrieve


def test_where_there_is_no_store_nothing_is_retrieved() -> None:
    assert not decide(turn("headrace", None), VECTOR, Settings(), None).retrieve


@pytest.mark.parametrize("retrieves", [True, False])
def test_a_model_of_the_catalogue_retrieves_where_it_says_so(retrieves: bool) -> None:
    assert decide(turn("mine", handling=Handling(retrieves=retrieves)), VECTOR, Settings(), None).retrieve == retrieves


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


@dataclass
class Fixed(Complexity):
    """Finds every question of the same complexity."""

    found: float

    def score(self, text: str, vector: Vector) -> float:
        return self.found


def test_the_tenants_own_threshold_goes_before_that_of_the_settings() -> None:
    settings = Settings(router=Router(threshold=0.9))
    assert decide(turn(), VECTOR, settings, Fixed(0.5)).tier == "small"
    assert decide(turn(handling=Handling(threshold=0.4)), VECTOR, settings, Fixed(0.5)).tier == "large"


def test_flex_sends_half_as_much_to_the_large_tier_and_priority_half_as_much_to_the_small_one() -> None:
    def tier(service: Service, score: float) -> str | None:
        handling = Handling(threshold=0.6, service=service)
        return decide(turn(handling=handling), VECTOR, Settings(), Fixed(score)).tier

    assert [tier("default", score) for score in (0.59, 0.61)] == ["small", "large"]
    assert [tier("flex", score) for score in (0.79, 0.81)] == ["small", "large"]
    assert [tier("priority", score) for score in (0.29, 0.31)] == ["small", "large"]


def test_a_turn_in_a_hurry_goes_to_the_small_tier_and_the_reason_says_so() -> None:
    route = decide(turn(deadline_s=4.9), VECTOR, Settings(), Fixed(1.0))
    assert (route.tier, route.reason.endswith("less than 5 s")) == ("small", True)
    assert decide(turn(deadline_s=5), VECTOR, Settings(), Fixed(1.0)).tier == "large"
