"""A model backend that behaves as told."""

from collections.abc import Callable

import pytest

from tests.loadtest.conftest import Simulator, spawn

__all__ = ["spawn"]


@pytest.fixture(scope="session")
def upstream(spawn: Callable[..., Simulator]) -> Simulator:
    """A simulator with a quick pace."""
    return spawn("--ttft-ms", "20", "--itl-ms", "5", "--tokens", "20")
