"""Filters as callers write them: read to the conditions they mean, or refused with the place that is wrong."""

import sys
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.core.errors import InvalidRequest
from deployments.core.filters import Combine, Compare, Filter, holds
from deployments.gateway.filters import MAX_CONDITIONS, MAX_DEPTH, MAX_VALUES, parse

LEAF: dict[str, Any] = {"type": "eq", "key": "a", "value": 1}


def nested(depth: int) -> dict[str, Any]:
    return LEAF if depth == 0 else {"type": "and", "filters": [nested(depth - 1)]}


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (LEAF, Compare("eq", "a", 1)),
        ({"type": "ne", "key": "a", "value": 'it\'s "quoted"; -- é\u202e'}, Compare("ne", "a", 'it\'s "quoted"; -- é\u202e')),
        ({"type": "lte", "key": "a", "value": -0.5}, Compare("lte", "a", -0.5)),
        ({"type": "eq", "key": "a", "value": True}, Compare("eq", "a", True)),
        ({"type": "in", "key": "a", "value": []}, Compare("in", "a", ())),
        ({"type": "nin", "key": "a", "value": ["x", 2]}, Compare("nin", "a", ("x", 2))),
        ({"type": "or", "filters": [LEAF, nested(1)]}, Combine("or", (Compare("eq", "a", 1), Combine("and", (Compare("eq", "a", 1),))))),
        (LEAF | {"unknown": "is ignored"}, Compare("eq", "a", 1)),
    ],
)
def test_a_filter_becomes_the_condition_it_means(sent: dict[str, Any], expected: Filter) -> None:
    assert parse(sent, "filters") == expected


@pytest.mark.parametrize(
    ("sent", "param"),
    [
        ({}, "filters.type"),
        ({"type": "like", "key": "a", "value": "%"}, "filters.type"),
        ({"type": ["eq"], "key": "a", "value": 1}, "filters.type"),
        ({"type": "eq", "value": 1}, "filters.key"),
        ({"type": "eq", "key": "", "value": 1}, "filters.key"),
        ({"type": "eq", "key": "k" * 65, "value": 1}, "filters.key"),
        ({"type": "eq", "key": "a\0", "value": 1}, "filters.key"),
        ({"type": "eq", "key": 1, "value": 1}, "filters.key"),
        ({"type": "eq", "key": "a"}, "filters.value"),
        ({"type": "eq", "key": "a", "value": None}, "filters.value"),
        ({"type": "eq", "key": "a", "value": ["x"]}, "filters.value"),
        ({"type": "eq", "key": "a", "value": {"x": 1}}, "filters.value"),
        ({"type": "eq", "key": "a", "value": "x" * 513}, "filters.value"),
        ({"type": "eq", "key": "a", "value": "\0"}, "filters.value"),
        ({"type": "eq", "key": "a", "value": "\ud800"}, "filters.value"),
        ({"type": "eq", "key": "a", "value": float("inf")}, "filters.value"),
        ({"type": "eq", "key": "a", "value": float("nan")}, "filters.value"),
        ({"type": "eq", "key": "a", "value": 10**400}, "filters.value"),
        ({"type": "gt", "key": "a", "value": True}, "filters.value"),
        ({"type": "in", "key": "a", "value": "x"}, "filters.value"),
        ({"type": "in", "key": "a", "value": ["x", None]}, "filters.value[1]"),
        ({"type": "in", "key": "a", "value": [0] * (MAX_VALUES + 1)}, "filters.value"),
        ({"type": "and"}, "filters.filters"),
        ({"type": "and", "filters": []}, "filters.filters"),
        ({"type": "and", "filters": [LEAF, "a = 1"]}, "filters.filters[1]"),
        ({"type": "and", "filters": [LEAF, {"type": "or", "filters": [LEAF | {"key": None}]}]}, "filters.filters[1].filters[0].key"),
        ({"type": "and", "filters": [LEAF] * (MAX_CONDITIONS + 1)}, "filters.filters"),
        ({"type": "and", "filters": [{"type": "or", "filters": [LEAF] * 40}] * 2}, "filters.filters[1].filters[21]"),
        (nested(MAX_DEPTH + 1), "filters" + ".filters[0]" * MAX_DEPTH),
    ],
)
def test_what_is_no_filter_is_refused_where_it_is_wrong(sent: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        parse(sent, "filters")
    assert error.value.param == param
    assert len(error.value.message) < 300


def test_the_bounds_themselves_are_allowed() -> None:
    assert parse(nested(MAX_DEPTH), "filters")
    assert parse({"type": "and", "filters": [LEAF] * (MAX_CONDITIONS - 1)}, "filters")
    assert parse({"type": "in", "key": "k" * 64, "value": ["x" * 512]}, "filters")
    began = time.process_time()
    assert parse({"type": "in", "key": "a", "value": list(range(MAX_VALUES))}, "filters")
    took_s = time.process_time() - began
    sys.stdout.write(f"a filter of {MAX_VALUES} values was read in {1000 * took_s:.0f} ms\n")
    assert took_s < 0.5


values = st.one_of(st.text("ab'\"é", max_size=3), st.integers(-5, 5), st.floats(-5, 5), st.booleans())
leaves = st.fixed_dictionaries({"type": st.sampled_from(["eq", "ne"]), "key": st.sampled_from("abc"), "value": values})


def compounds(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"type": st.sampled_from(["and", "or"]), "filters": st.lists(inner, min_size=1, max_size=3)})


@given(compounds(st.one_of(leaves, compounds(leaves))), st.dictionaries(st.sampled_from("abc"), values))
def test_what_is_read_holds_for_what_the_caller_meant(sent: dict[str, Any], attributes: dict[str, Any]) -> None:
    def meant(node: dict[str, Any]) -> bool:
        if "filters" in node:
            return (all if node["type"] == "and" else any)(meant(one) for one in node["filters"])
        mine, value = attributes.get(node["key"]), node["value"]
        same = mine == value and isinstance(mine, bool) == isinstance(value, bool)
        return same if node["type"] == "eq" else not same

    condition = parse(sent, "filters")
    assert holds(condition, attributes) == meant(sent)


NAMES = st.sampled_from(["type", "key", "value", "filters"])
anything = st.recursive(
    st.one_of(st.none(), values, st.sampled_from(["and", "in", "gt"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=10,
)


@given(st.dictionaries(NAMES, anything, max_size=4))
def test_nothing_that_json_can_say_is_an_error_of_ours(sent: dict[str, Any]) -> None:
    refused = ""
    try:
        parse(sent, "filters")
    except InvalidRequest as error:
        refused = error.param or "nothing"
    assert not refused or refused.startswith("filters")
