"""A model backend that behaves as told."""

from collections.abc import Iterator

import pytest

from tests.loadtest.conftest import Simulator, spawn

__all__ = ["spawn"]


@pytest.fixture(scope="session")
def upstream(spawn) -> Iterator[Simulator]:
    """A simulator with a quick pace."""
    yield spawn("--ttft-ms", "20", "--itl-ms", "5", "--tokens", "20")
