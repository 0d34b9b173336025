"""What the tests of a threat share."""

from collections.abc import Callable

import pytest


@pytest.fixture
def cases(record_property: Callable[[str, object], None]) -> Callable[[int], None]:
    """Takes how many cases a test has made; `python -m tests.must_not` adds them up."""
    return lambda made: record_property("cases", made)
