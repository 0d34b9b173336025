"""Structured output at the gateway: schemas are bounded, and OpenAI's own client gets what it parses."""

import json
from typing import Any

import pytest
from pydantic import BaseModel

from deployments.core.errors import InvalidRequest
from deployments.gateway.structured import MAX_ENUM, MAX_LEVELS, MAX_PROPERTIES, JsonSchema, asked
from tests.house import House

OPEN: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
CLOSED = OPEN | {"additionalProperties": False}


class Dog(BaseModel):
    name: str
    age: int


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


def of(schema: dict[str, Any], *, strict: bool = False) -> bytes:
    return asked(JsonSchema(name="x", schema=schema, strict=strict), "p", held=True).schema


def test_a_sound_schema_is_carried_as_it_came() -> None:
    for schema in (
        CLOSED,
        nested(MAX_LEVELS),
        {"$defs": {"a": {"enum": [1]}}, "$ref": "#/$defs/a"},
        {"properties": {"$ref": {}, "$id": {}}},
    ):
        assert json.loads(of(schema)) == schema
    assert json.loads(of(CLOSED, strict=True)) == CLOSED


@pytest.mark.parametrize(
    ("schema", "strict", "place"),
    [
        (nested(MAX_LEVELS + 1), False, "p"),
        (nested(1000), False, "p"),
        ({"properties": {f"k{n}": {} for n in range(MAX_PROPERTIES + 1)}}, False, "p"),
        ({"enum": list(range(MAX_ENUM + 1))}, False, "p"),
        ({"description": "x" * 70_000}, False, "p"),
        ({"pattern": "(" * 40}, False, "p"),
        ({"pattern": "(?=a)b"}, False, "p"),
        ({"pattern": "^((a{1,900}){1,900}){1,900}$"}, False, "p"),
        ({"pattern": "a" * 300}, False, "p"),
        ({"$ref": "http://127.0.0.1:1/x"}, False, "p"),
        ({"$ref": "#/$defs/nowhere"}, False, "p"),
        ({"properties": {"a": {"$id": "http://127.0.0.1:1/"}}}, False, "p.properties.a.$id"),
        ({"items": {"type": "string", "maxLength": 10**9}}, False, "p.items.maxLength"),
        ({"type": "banana"}, False, "p"),
        ({"properties": [1]}, False, "p"),
        ({"type": "array", "items": {}}, True, "p"),
        (OPEN, True, "p.additionalProperties"),
        (CLOSED | {"required": []}, True, "p.required"),
        (CLOSED | {"properties": {"a": OPEN}}, True, "p.properties.a.additionalProperties"),
    ],
)
def test_a_schema_over_a_bound_or_against_the_rules_is_named(schema: dict[str, Any], strict: bool, place: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        of(schema, strict=strict)
    assert caught.value.param == place


@pytest.mark.parametrize(
    "fields", [{"stop": ["}"]}, {"response_format": {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}}]
)
async def test_what_does_not_go_with_a_schema_is_refused(house: House, fields: dict[str, Any]) -> None:
    format_ = {"type": "json_schema", "json_schema": {"name": "x", "schema": OPEN}}
    body = {"model": "headrace", "messages": [{"role": "user", "content": "Hi"}], "response_format": format_} | fields
    async with house.http() as http:
        response = await http.post("/v1/chat/completions", json=body)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_value")
    assert not house.flow.turns


async def test_chat_is_parsed_by_the_client(house: House) -> None:
    house.flow.pieces = ['{"name": "Rex",', ' "age": 3}']
    chat = house.openai().chat.completions
    whole = await chat.parse(model="headrace", messages=[{"role": "user", "content": "A dog?"}], response_format=Dog)
    async with chat.stream(model="headrace", messages=[{"role": "user", "content": "Another?"}], response_format=Dog) as stream:
        streamed = await stream.get_final_completion()
    assert whole.choices[0].message.parsed == streamed.choices[0].message.parsed == Dog(name="Rex", age=3)
    first, second = (turn.sampling.schema for turn in house.flow.turns)
    assert first
    assert second
    assert (first.name, first.strict, first.held, second.held) == ("Dog", True, True, False)


async def test_a_response_is_parsed_by_the_client(house: House) -> None:
    house.flow.pieces = ['{"name": "Rex",', ' "age": 3}']
    responses = house.openai().responses
    whole = await responses.parse(model="headrace", input="A dog?", text_format=Dog)
    async with responses.stream(model="headrace", input="Another?", text_format=Dog) as stream:
        streamed = await stream.get_final_response()
    assert whole.output_parsed == streamed.output_parsed == Dog(name="Rex", age=3)
    assert whole.text
    assert whole.text.format
    assert whole.text.format.type == "json_schema"
