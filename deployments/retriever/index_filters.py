"""Conditions on attributes as Lance expressions, never as strings.

Each attribute name has a column of text in the table, named by its digest. A value is written as its kind and hexadecimal digits that
sort as the value does, so that one column compares text, numbers and truth values as `deployments.core.filters.holds` says, and no
character of a caller's is ever part of an expression. Numbers are compared as doubles.
"""

import math
import struct
from collections.abc import Callable, Mapping, Sequence, Set
from functools import lru_cache
from hashlib import blake2b
from typing import cast

from lancedb.expr import Expr, col, func, lit

from deployments.core.errors import InvalidRequest
from deployments.core.filters import Combine, Compare, Filter, Value

MAX_CONDITIONS = 256
"""Comparisons in one filter; over 100,000 passages each one costs about 5 ms."""
MAX_DEPTH = 32
"""How deep conditions may be nested."""
PREFIX = "a_"
"""What the names of attribute columns begin with."""

_AFTER = {"b": "c", "n": "o", "s": "t"}
_SIGN = 1 << 63


@lru_cache(maxsize=4096)
def column(name: str) -> str:
    """The column that holds the attribute of that name."""
    return PREFIX + blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def cells(attributes: Mapping[str, Value]) -> dict[str, str]:
    """The columns of one row; an attribute that is equal to nothing, such as NaN, has none."""
    return {column(name): cell for name, value in attributes.items() if (cell := encode(value)) is not None}


def encode(value: Value) -> str | None:
    """A value as a text that sorts as it does among those of its kind; None for NaN."""
    if isinstance(value, bool):
        return f"b{int(value)}"
    if isinstance(value, str):
        return "s" + value.encode("utf-8", "surrogatepass").hex()
    number = _double(value)
    if math.isnan(number):
        return None
    (bits,) = struct.unpack(">Q", struct.pack(">d", number + 0.0))  # + 0.0 makes -0.0 of 0.0
    return f"n{bits ^ (_SIGN - 1 | _SIGN) if bits & _SIGN else bits | _SIGN:016x}"


def expression(condition: Filter, columns: Set[str]) -> Expr | bool:
    """What a row must meet, in a table with these columns; True or False where it does not depend on the row.

    Raises InvalidRequest for a condition that is larger or deeper than can be searched by.
    """
    _measure(condition)
    return _expression(condition, columns)


def _expression(condition: Filter, columns: Set[str]) -> Expr | bool:
    if isinstance(condition, Compare):
        return _comparison(condition, columns)
    decided = condition.op == "or"
    parts = [_expression(one, columns) for one in condition.filters]
    if any(part is decided for part in parts):
        return decided
    open_parts = [part for part in parts if not isinstance(part, bool)]
    return _joined(Expr.or_ if decided else Expr.and_, open_parts) if open_parts else not decided


def _comparison(condition: Compare, columns: Set[str]) -> Expr | bool:
    values = condition.value if isinstance(condition.value, tuple) else (condition.value,)
    wanted = list(dict.fromkeys(code for value in values if (code := encode(value)) is not None))
    name = column(condition.key)
    if name not in columns or not wanted:
        return condition.op in ("ne", "nin")
    held = func("concat", col(name), lit(""))  # a row without the attribute holds NULL, of which `not` makes NULL again; concat makes ""
    match condition.op:
        case "eq" | "in":
            return _among(held, wanted)
        case "ne" | "nin":
            return ~_among(held, wanted)
        case _:
            ordered = [_ordered(condition.op, held, code) for code in wanted if code[0] != "b"]
            return _joined(Expr.or_, ordered) if ordered else False


def _among(held: Expr, wanted: Sequence[str]) -> Expr:
    return held == lit(wanted[0]) if len(wanted) == 1 else held.isin(lit(code) for code in wanted)


def _ordered(op: str, held: Expr, code: str) -> Expr:
    """An order within the kind of the value."""
    first, after = lit(code[0]), lit(_AFTER[code[0]])
    match op:
        case "gt":
            return (held > lit(code)) & (held < after)
        case "gte":
            return (held >= lit(code)) & (held < after)
        case "lt":
            return (held < lit(code)) & (held >= first)
        case _:
            return (held <= lit(code)) & (held >= first)


def _joined(join: Callable[[Expr, Expr], Expr], parts: Sequence[Expr]) -> Expr:
    """The parts as a tree of little depth; a long chain would exhaust a stack of Lance's."""
    middle = len(parts) // 2
    return parts[0] if len(parts) == 1 else join(_joined(join, parts[:middle]), _joined(join, parts[middle:]))


def _measure(condition: Filter) -> None:
    found, level = 0, [condition]
    for _ in range(MAX_DEPTH):
        found += sum(_comparisons(one) for one in level)
        if found > MAX_CONDITIONS:
            raise InvalidRequest(f"a filter has {MAX_CONDITIONS} comparisons at most", param="filters")
        level = [inner for one in level if isinstance(one, Combine) for inner in one.filters]
        if not level:
            return
    raise InvalidRequest(f"filters are nested {MAX_DEPTH} deep at most", param="filters")


def _comparisons(condition: Filter) -> int:
    """How many comparisons stand at one place; an order against several values is one for each of them."""
    if isinstance(condition, Combine):
        return 0
    several = condition.op in ("gt", "gte", "lt", "lte") and isinstance(condition.value, tuple)
    return len(cast(tuple[Value, ...], condition.value)) if several else 1


def _double(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
