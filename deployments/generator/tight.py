"""Makes a JSON schema narrower for a small model that is held to it by a grammar: it writes without end where it may; pure."""

import re
from typing import Any

LONGEST_CHARS = 60
"""Of a text that is not bounded more tightly."""
MOST_ITEMS = 5
"""Of a list that is not bounded more tightly."""
_DEEPEST = 64
_HELD = re.compile(r"\^(?:(?:[A-Za-z0-9 _:/@-]|\[[A-Za-z0-9 _:-]+\])(?:\{\d{1,2}(?:,\d{1,2})?\}|\?)?)+\$")
"""Patterns that a grammar holds to as they are meant, and that end: letters, digits and classes, each so many times, from end to end."""


def tight(schema: Any, level: int = 0) -> Any:
    """A schema whose values all fit the given one, with texts, lists and objects that end; most patterns are left to the check afterwards.

    llama.cpp holds to simple patterns, and passes over others or reads them in its own way. What is put together of several schemas
    (`allOf`) is left as it is: to close each would leave nothing.
    """
    if not isinstance(schema, dict) or "allOf" in schema or level > _DEEPEST:
        return schema
    made = {name: _within(name, value, level) for name, value in schema.items() if name not in ("default", "examples")}
    if not _HELD.fullmatch(str(made.get("pattern", ""))):
        made.pop("pattern", None)
    kinds = schema.get("type")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if "string" in kinds and not {"enum", "const", "format"} & schema.keys():
        made["maxLength"] = _bound(schema, "Length", LONGEST_CHARS)
    if "array" in kinds:
        made["maxItems"] = _bound(schema, "Items", MOST_ITEMS)
    if (named := schema.get("properties")) and named.keys() >= set(schema.get("required", ())):
        made["additionalProperties"] = False
    return made


def _bound(schema: dict[str, Any], what: str, most: int) -> int:
    """The caller's own bound, or ours, which gives way to what is asked for at least."""
    ours = max(most, schema.get(f"min{what}", 0))
    return min(schema.get(f"max{what}", ours), ours)


def _within(name: str, value: Any, level: int) -> Any:
    if name in ("properties", "$defs", "definitions") and isinstance(value, dict):
        return {key: tight(one, level + 1) for key, one in value.items()}
    if name in ("anyOf", "oneOf", "prefixItems") and isinstance(value, list):
        return [tight(one, level + 1) for one in value]
    return tight(value, level + 1) if name in ("items", "additionalProperties") else value
