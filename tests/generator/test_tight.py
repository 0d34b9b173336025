"""What the embedded model is held to is narrower than what was asked for, never wider."""

import jsonschema
import pytest

from deployments.generator.tight import LONGEST_CHARS, MOST_ITEMS, tight


def test_what_has_no_end_gets_one() -> None:
    assert tight({"type": "string"})["maxLength"] == LONGEST_CHARS
    assert tight({"type": "array", "items": {"type": "string"}}) == {
        "type": "array", "maxItems": MOST_ITEMS, "items": {"type": "string", "maxLength": LONGEST_CHARS},
    }  # fmt: skip
    assert tight({"type": "object", "properties": {"type": {"type": "integer"}}})["additionalProperties"] is False


@pytest.mark.parametrize(
    "bound", [{"maxLength": 3}, {"minLength": 90}, {"minLength": 90, "maxLength": 100}, {"enum": ["a"]}, {"format": "date"}]
)
def test_bounds_of_the_callers_own_hold(bound: dict[str, object]) -> None:
    made = tight({"type": "string"} | bound)
    assert made | bound == made or made["maxLength"] < bound["maxLength"]
    assert made.get("minLength", 0) <= made.get("maxLength", 1000)


def test_what_fits_the_narrower_fits_the_wider() -> None:
    wide = {"type": "object", "properties": {"a": {"anyOf": [{"type": "string"}, {"type": "null"}]}}, "required": ["a"]}
    for value, fits in (({"a": "x"}, True), ({"a": None}, True), ({"a": "x" * 61}, False), ({"a": None, "b": 1}, False)):
        assert jsonschema.Draft202012Validator(tight(wide)).is_valid(value) is fits
        assert jsonschema.Draft202012Validator(wide).is_valid(value)


def test_what_closing_would_leave_no_value_for_stays_open() -> None:
    named = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["b"]}
    joined = {"allOf": [{"properties": {"a": {"type": "integer"}}}, {"properties": {"b": {"type": "integer"}}}]}
    assert jsonschema.Draft202012Validator(tight(named)).is_valid({"b": 1})
    assert jsonschema.Draft202012Validator(tight(joined)).is_valid({"a": 1, "b": 1})


@pytest.mark.parametrize(
    ("pattern", "held"),
    [
        ("^[A-Z]{3}-[0-9]{3}$", True),
        ("^v[0-9]{1,2}$", True),
        ("^a?b$", True),
        ("[A-Z]{3}", False),
        ("^[a-z]+$", False),
        ("^(a|b)$", False),
        ("^\\d{3}$", False),
        ("^a|b$", False),
        ("^[^a]$", False),
        ("^a{1000}$", False),
        ("^a{3}{9}$", False),
    ],
)
def test_simple_patterns_from_end_to_end_are_held_to_by_the_grammar(pattern: str, held: bool) -> None:
    assert ("pattern" in tight({"type": "string", "pattern": pattern})) is held
