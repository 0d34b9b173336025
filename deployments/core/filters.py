"""Conditions on the attributes of a passage, as typed trees: what a search may be narrowed by."""

from collections.abc import Mapping
from typing import Literal

import msgspec

Value = str | float | bool
"""What an attribute may be."""

Comparison = Literal["eq", "ne", "gt", "gte", "lt", "lte", "in", "nin"]


class Compare(msgspec.Struct, frozen=True, tag="compare"):
    """One attribute against one value, or for `in` and `nin` against several."""

    op: Comparison
    key: str
    value: Value | tuple[Value, ...]


class Combine(msgspec.Struct, frozen=True, tag="combine"):
    """Several conditions, all of which (`and`) or one of which (`or`) must hold."""

    op: Literal["and", "or"]
    filters: "tuple[Filter, ...]"


Filter = Compare | Combine


def holds(condition: Filter, attributes: Mapping[str, Value]) -> bool:
    """Whether a condition holds: the meaning that every search keeps to.

    An attribute that is missing, or of another kind than the value, is equal to nothing and in no order: `ne` and `nin` hold for it,
    all others do not.
    """
    if isinstance(condition, Combine):
        met = (holds(one, attributes) for one in condition.filters)
        return all(met) if condition.op == "and" else any(met)
    values = condition.value if isinstance(condition.value, tuple) else (condition.value,)
    mine = attributes.get(condition.key)
    alike = [value for value in values if _kind(value) is _kind(mine)]
    match condition.op:
        case "eq" | "in":
            return mine in alike
        case "ne" | "nin":
            return mine not in alike
        case _:
            return any(_ordered(condition.op, mine, value) for value in alike)


def _kind(value: Value | None) -> type:
    return float if type(value) is int else type(value)


def _ordered(op: Comparison, mine: Value | None, value: Value) -> bool:
    if mine is None or isinstance(mine, bool):
        return False
    if isinstance(mine, str) or isinstance(value, str):
        first, second = str(mine), str(value)
        return {"gt": first > second, "gte": first >= second, "lt": first < second, "lte": first <= second}[op]
    return {"gt": mine > value, "gte": mine >= value, "lt": mine < value, "lte": mine <= value}[op]
