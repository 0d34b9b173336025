"""`json_schema`, the shape of an answer: what is asked for, within bounds, and in strict mode by OpenAI's rules.

Source of the rules: https://platform.openai.com/docs/guides/structured-outputs#supported-schemas
"""

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field

from deployments.core.errors import InvalidRequest, Unsupported
from deployments.core.schemas import validator
from deployments.core.shape import Schema
from deployments.gateway.schemas import schema as bounded
from deployments.gateway.wire import MAX_DESCRIPTION_CHARS, Part, Text, Words

MAX_LEVELS = 10
"""How deep schemas nest in each other, as OpenAI has it."""
MAX_PROPERTIES = 256
"""Of all objects together: a backend that compiles a grammar pays for each at every token."""
MAX_ENUM = 256
"""Values of all enumerations together."""
MAX_REPEATS = 2000
"""What `maxLength`, `minItems` and their like may say: a grammar repeats a rule so often."""

_REPEATS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_ONE = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")
_MANY = ("anyOf", "oneOf", "allOf", "prefixItems")
_NAMED = ("properties", "$defs", "definitions", "patternProperties", "dependentSchemas")
_FOREIGN = ("$id", "$anchor", "$dynamicRef", "$dynamicAnchor", "$vocabulary")


KINDS = ("text", "json_object", "json_schema")
Kind = Annotated[Text, Field(json_schema_extra={"enum": list(KINDS)})]
"""The kinds of answers."""
SchemaName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class JsonSchema(Part):
    """A schema under a name."""

    name: SchemaName
    description: Annotated[Words, Field(max_length=MAX_DESCRIPTION_CHARS)] | None = None
    strict: bool | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")


def asked(spec: JsonSchema, param: str, *, held: bool) -> Schema:
    """What is asked for; `param` is where the schema stands. Raises InvalidRequest, which names the place within it."""
    if spec.schema_ is None:
        raise InvalidRequest("schema is required", param=param, code="missing_required_parameter")
    return Schema(spec.name, checked(spec.schema_, param, strict=bool(spec.strict)), bool(spec.strict), spec.description, held)


def checked(schema: dict[str, Any], param: str, *, strict: bool) -> bytes:
    """A schema that values can be checked against, encoded; raises InvalidRequest, which names the place within it."""
    made = bounded(schema, param) or b""
    _bound(schema, param, strict=strict)
    try:
        validator(made)
    except ValueError:
        message = "not a JSON schema of draft 2020-12, or a pattern with look-around, back-references or too many repetitions"
        raise InvalidRequest(message, param=param, code="invalid_json_schema") from None
    return made


def parameters(schema: dict[str, Any] | None, param: str, strict: bool | None) -> bytes | None:
    """The schema of a function's arguments, encoded: within bounds, and one that they can be held to where they are to be."""
    return checked(schema, param, strict=False) if strict and schema is not None else bounded(schema, param)


def _bound(schema: dict[str, Any], param: str, *, strict: bool) -> None:
    """Raises InvalidRequest where a schema is over a bound, or breaks the rules of strict mode."""
    properties = values = 0
    if strict and (schema.get("type") != "object" or "anyOf" in schema):
        raise _wrong("in strict mode the root is of the type 'object'", param)
    for node, place, level in _nodes(schema, param):
        if level > MAX_LEVELS:
            raise _wrong(f"schemas nest at most {MAX_LEVELS} levels deep", param)
        mine, listed = node.get("properties"), node.get("enum")
        properties += len(mine) if isinstance(mine, dict) else 0
        values += len(listed) if isinstance(listed, list) else 0
        if properties > MAX_PROPERTIES or values > MAX_ENUM:
            raise _wrong(f"a schema has at most {MAX_PROPERTIES} properties and {MAX_ENUM} values in enumerations", param)
        for name in _FOREIGN:
            if name in node:
                raise _wrong(f"'{name}' is not supported", f"{place}.{name}")
        for name in _REPEATS:
            if isinstance(node.get(name), int | float) and node[name] > MAX_REPEATS:
                raise _wrong(f"at most {MAX_REPEATS}", f"{place}.{name}")
        if strict:
            _strict(node, place)


def _strict(node: dict[str, Any], place: str) -> None:
    properties = node.get("properties")
    if node.get("type") != "object" and not isinstance(properties, dict):
        return
    if node.get("additionalProperties") is not False:
        raise _wrong("in strict mode 'additionalProperties' is false in every object", f"{place}.additionalProperties")
    required = node.get("required")
    names = set(properties) if isinstance(properties, dict) else set[str]()
    if not names <= {name for name in required if isinstance(name, str)} if isinstance(required, list) else bool(names):
        raise _wrong("in strict mode every property is required", f"{place}.required")


def _nodes(schema: dict[str, Any], param: str) -> Iterator[tuple[dict[str, Any], str, int]]:
    """Every schema within a schema, with its place and how many schemas it stands in."""
    left: list[tuple[Any, str, int]] = [(schema, param, 0)]
    while left:
        node, place, level = left.pop()
        if not isinstance(node, dict):
            continue
        yield node, place, level
        left += [(node[name], f"{place}.{name}", level + 1) for name in _ONE if name in node]
        for name in _MANY:
            if isinstance(several := node.get(name), list):
                left += [(one, f"{place}.{name}[{number}]", level + 1) for number, one in enumerate(several)]
        for name in _NAMED:
            if isinstance(named := node.get(name), dict):
                left += [(one, f"{place}.{name}.{key[:64]}", level + 1) for key, one in named.items()]


def _wrong(message: str, param: str) -> InvalidRequest:
    return InvalidRequest(message, param=param[:300], code="invalid_json_schema")


def known_kind(kind: str, param: str) -> None:
    """Raises Unsupported for another kind of answer."""
    if kind not in KINDS:
        raise Unsupported(f"any of {', '.join(KINDS)}", param=param, code="unsupported_value")
