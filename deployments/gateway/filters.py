"""Filters as callers write them, read into conditions; what is not one is refused with the place where it is wrong."""

from typing import Annotated, Any, cast

from pydantic import Field

from deployments.core.errors import InvalidRequest
from deployments.core.filters import Combine, Compare, Comparison, Filter, Value

MAX_DEPTH = 5
MAX_CONDITIONS = 64
MAX_VALUES = 100_000
"""Values of one `in` or `nin`."""

MAX_KEY_CHARS, MAX_TEXT_CHARS = 64, 512
"""What the attributes of a file may have."""

MAX_WHOLE = 2**53
"""Numbers are 64-bit floats: beyond this, not every whole number is one."""

_SEVERAL, _ORDERED = ("in", "nin"), ("gt", "gte", "lt", "lte")
_COMPARISONS = ("eq", "ne", *_ORDERED, *_SEVERAL)
_COMPOUNDS = ("and", "or")

Filters = Annotated[
    dict[str, Any],
    Field(
        json_schema_extra={
            "required": ["type"],
            "properties": {
                "type": {"enum": [*_COMPARISONS, *_COMPOUNDS]},
                "key": {"type": "string", "minLength": 1, "maxLength": MAX_KEY_CHARS},
                "filters": {"type": "array", "items": {"type": "object"}, "maxItems": MAX_CONDITIONS},
            },
        }
    ),
]
"""A comparison or a compound, to be read by `parse`."""


def parse(sent: dict[str, Any], param: str) -> Filter:
    """The condition that a filter stands for; raises InvalidRequest, naming the part of `param` that is wrong."""
    return _Reader().read(sent, param, 1)


class _Reader:
    """Reads one tree, and counts."""

    def __init__(self) -> None:
        self._conditions = 0

    def read(self, sent: object, param: str, depth: int) -> Filter:
        if not isinstance(sent, dict):
            raise _wrong("a filter is an object", param)
        node, kind = cast(dict[str, Any], sent), sent.get("type")
        self._conditions += 1
        if self._conditions > MAX_CONDITIONS:
            raise _wrong(f"at most {MAX_CONDITIONS} conditions", param)
        if kind in _COMPOUNDS:
            return self._compound(node, param, depth)
        if kind not in _COMPARISONS:
            raise _wrong(f"one of {', '.join((*_COMPARISONS, *_COMPOUNDS))}", f"{param}.type", missing="type" not in node)
        key, value = node.get("key"), node.get("value")
        if not isinstance(key, str) or not 0 < len(key) <= MAX_KEY_CHARS or not storable(key):
            raise _wrong(f"a key has 1 to {MAX_KEY_CHARS} characters", f"{param}.key", missing="key" not in node)
        if "value" not in node:
            raise _wrong("Field required", f"{param}.value", missing=True)
        return Compare(kind, key, _values(value, f"{param}.value") if kind in _SEVERAL else _value(value, f"{param}.value", kind))

    def _compound(self, node: dict[str, Any], param: str, depth: int) -> Combine:
        inner = node.get("filters")
        if not isinstance(inner, list) or not 0 < len(inner) <= MAX_CONDITIONS:
            raise _wrong(f"a list of 1 to {MAX_CONDITIONS} filters", f"{param}.filters", missing="filters" not in node)
        if depth > MAX_DEPTH:
            raise _wrong(f"filters nest {MAX_DEPTH} deep at most", param)
        read = [self.read(one, f"{param}.filters[{place}]", depth + 1) for place, one in enumerate(cast(list[object], inner))]
        return Combine(node["type"], tuple(read))


def _values(sent: object, param: str) -> tuple[Value, ...]:
    if not isinstance(sent, list) or len(sent) > MAX_VALUES:
        raise _wrong(f"a list of at most {MAX_VALUES} values", param)
    for place, one in enumerate(cast(list[object], sent)):
        if flaw := _flaw(one):
            raise _wrong(flaw, f"{param}[{place}]")
    return tuple(cast(list[Value], sent))


def _value(sent: object, param: str, op: Comparison) -> Value:
    if flaw := "truth has no order" if isinstance(sent, bool) and op in _ORDERED else _flaw(sent):
        raise _wrong(flaw, param)
    return cast(Value, sent)


def _flaw(value: object) -> str:
    """Why a value could be that of no attribute; "" where it could."""
    if isinstance(value, str):
        return "" if len(value) <= MAX_TEXT_CHARS and storable(value) else f"a text of at most {MAX_TEXT_CHARS} characters, without NUL"
    if isinstance(value, int | float):
        return "" if abs(value) <= MAX_WHOLE else "a finite number up to 2**53"  # which NaN is not, either
    return "a text, a number, true or false"


def storable(text: str) -> bool:
    """Whether every database takes a text: it holds no NUL and no half of a surrogate pair."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def _wrong(why: str, param: str, *, missing: bool = False) -> InvalidRequest:
    return InvalidRequest(f"{param}: {why}", param=param, code="missing_required_parameter" if missing else "invalid_value")
