"""The routing decision."""

import numpy as np
import pytest

from deployments.core import config
from deployments.core.errors import NoSuchModel
from deployments.core.types import Message, Principal, Sampling, Turn
from deployments.router.decide import decide

VECTOR = np.ones(3, np.float32)


def turn(model: str) -> Turn:
    return Turn("r", Principal("t", "k", frozenset()), model, (Message("user", "Hi"),), Sampling(), 0, 1)


def test_the_grounded_model_retrieves() -> None:
    route = decide(turn("headrace"), VECTOR, config.Generator(context_tokens=700))
    assert route.retrieve
    assert route.context_tokens == 700


def test_the_direct_model_never_retrieves() -> None:
    assert not decide(turn("headrace-direct"), VECTOR, config.Generator()).retrieve


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(NoSuchModel):
        decide(turn("other"), VECTOR, config.Generator())
