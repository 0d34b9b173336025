"""The last values of one figure."""

from hypothesis import given
from hypothesis import strategies as st

from deployments.core.window import Window


def test_it_forgets_what_is_too_old() -> None:
    window = Window(keep_s=10)
    for second in range(20):
        window.feed(second, 1.0)
    assert window.total(20) == 9
    assert window.total(40) == 0


def test_it_keeps_no_more_than_it_may() -> None:
    window = Window(keep_s=10, most=3)
    for value in range(100):
        window.feed(1, value)
    assert window.total(1) == 97 + 98 + 99


def test_a_rate_is_right_however_much_of_it_is_kept() -> None:
    slow, fast = Window(keep_s=10), Window(keep_s=10, most=100)
    for number in range(1000):
        slow.feed(number, 5)
        fast.feed(number / 100, 5)
    assert slow.per_s(999.5) == 5
    assert abs(fast.per_s(10) - 500) < 10
    assert Window(keep_s=10).per_s(1) == 0


def test_there_is_nothing_in_none() -> None:
    assert Window(keep_s=10).quantile(0.95, 0) == 0


@given(st.lists(st.floats(0, 100), min_size=1, max_size=50), st.floats(0, 1))
def test_a_quantile_is_not_exceeded_by_its_share(values: list[float], share: float) -> None:
    window = Window(keep_s=10)
    for value in values:
        window.feed(0, value)
    found = window.quantile(share, 0)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values)
