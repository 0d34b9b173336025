"""Percentiles are exact."""

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.figures import Spread, jain, percentile


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50), st.floats(0, 100))
def test_percentiles_are_numpys(values: list[float], percent: float) -> None:
    assert percentile(values, percent) == pytest.approx(float(numpy.percentile(values, percent)), rel=1e-9, abs=1e-6)


def test_no_values_have_no_percentile() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


@pytest.mark.parametrize(("shares", "index"), [([1, 1, 1], 1.0), ([3, 0, 0], 1 / 3), ([0, 0], 1.0)])
def test_jain_is_1_for_equal_shares_and_1_over_n_for_one_winner(shares: list[float], index: float) -> None:
    assert jain(shares) == pytest.approx(index)


def test_a_spread_is_the_median_between_the_extremes() -> None:
    assert Spread.of([3.0, 1.0, 10.0]) == Spread(3.0, 1.0, 10.0)
