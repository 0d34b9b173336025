"""Conditions on attributes: what holds and what does not."""

import pytest

from deployments.core.filters import Combine, Compare, Filter, holds

MINE = {"kind": "ticket", "stars": 4, "open": True}


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (Compare("eq", "kind", "ticket"), True),
        (Compare("eq", "kind", "Ticket"), False),
        (Compare("ne", "kind", "order"), True),
        (Compare("gt", "stars", 3.5), True),
        (Compare("gte", "stars", 4), True),
        (Compare("lt", "stars", 4), False),
        (Compare("lte", "kind", "tickets"), True),
        (Compare("in", "stars", (1, 4.0)), True),
        (Compare("nin", "kind", ("order", "ticket")), False),
        (Compare("eq", "stars", "4"), False),
        (Compare("eq", "open", 1), False),
        (Compare("gt", "open", False), False),
        (Compare("eq", "missing", "x"), False),
        (Compare("ne", "missing", "x"), True),
        (Compare("nin", "missing", ()), True),
        (Compare("lt", "missing", 1), False),
        (Combine("and", (Compare("eq", "open", True), Compare("gt", "stars", 3))), True),
        (Combine("or", (Compare("eq", "open", False), Compare("gt", "stars", 9))), False),
        (Combine("and", ()), True),
        (Combine("or", ()), False),
    ],
)
def test_a_condition_holds_or_not(condition: Filter, expected: bool):
    assert holds(condition, MINE) is expected
