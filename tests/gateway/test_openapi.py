"""The OpenAPI document: every route is in it, with who may call it, what it takes, what it gives, and how it refuses."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute, iter_route_contexts
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from typer.testing import CliRunner

from deployments.core.config import Gateway, Settings
from deployments.gateway.app import routed
from deployments.gateway.bodies import BodyRoute
from deployments.gateway.idempotency import ENDPOINTS
from pipeline.cli.app import app as command
from tests.fakes import Desk, database
from tests.house import House

PUBLIC = {"/health", "/health/ready", "/files/{file_id}"}
"""Paths that need no key; the page of a document asks for one itself."""

DOCUMENT = routed(Settings()).openapi()
OPERATIONS = [(path, method, one) for path, methods in DOCUMENT["paths"].items() for method, one in methods.items()]


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with database(tmp_path) as store:
        yield Desk(store, Settings(data_dir=tmp_path, gateway=Gateway(publish_openapi=True)))


def validator(schema: dict[str, Any]) -> Draft202012Validator:
    """Checks values against a schema that refers to the document."""
    resource = Resource.from_contents({"$schema": "https://json-schema.org/draft/2020-12/schema", **DOCUMENT})
    pointed = json.loads(json.dumps(schema).replace('"#/', '"urn:openapi#/'))
    return Draft202012Validator(pointed, registry=Registry().with_resource("urn:openapi", resource))


def schemas(value: object) -> Iterator[dict[str, Any]]:
    """Every schema of a part of the document."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == "schema":
                yield inner
            yield from schemas(inner)


def test_every_route_is_told_of_with_every_method():
    routes = [context for context in iter_route_contexts(routed(Settings()).routes) if isinstance(context.original_route, APIRoute)]
    assert {(context.path_format, method.lower()) for context in routes for method in context.methods or ()} == {
        (path, method) for path, method, _ in OPERATIONS
    }
    assert all(isinstance(context.original_route, BodyRoute) for context in routes)


def test_who_may_call_is_said_of_every_route_and_nobody_is_the_exception():
    assert {path for path, _, one in OPERATIONS if "security" not in one} == PUBLIC
    assert DOCUMENT["components"]["securitySchemes"]["key"]["scheme"] == "bearer"


def test_every_answer_has_a_schema_and_every_refusal_the_envelope():
    for path, method, one in OPERATIONS:
        assert {"400", "500", "503"} <= set(one["responses"]), (path, method)
        assert ("422" in one["responses"]) == (method == "post" and path in ENDPOINTS), (path, method)
        assert "default" not in one["responses"], (path, method)
        for status, answer in one["responses"].items():
            for media, content in answer["content"].items():
                shape = content.get("schema") or content["itemSchema"]
                assert ("$ref" in shape) == (media == "application/json"), (path, method, status)
                assert "$ref" in shape or shape["type"] in ("string", "object"), (path, method, status)
                if status[0] in "45" and media == "application/json" and path != "/health/ready":
                    assert shape == {"$ref": "#/components/schemas/Refusal"}, (path, method, status)
    assert "HTTPValidationError" not in DOCUMENT["components"]["schemas"]


def test_every_schema_is_one_of_json_schema_2020_12():
    assert DOCUMENT["openapi"].startswith("3.1.")
    for schema in [*DOCUMENT["components"]["schemas"].values(), *schemas(DOCUMENT["paths"])]:
        Draft202012Validator.check_schema(schema)


STREAMS = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}], "stream_options": {"include_usage": True}},
    "/v1/completions": {"prompt": "Hi", "stream_options": {"include_usage": True}},
    "/v1/responses": {"input": "Hi"},
}


@pytest.mark.parametrize("path", list(STREAMS))
async def test_every_event_of_a_stream_is_as_the_document_says(house: House, path: str) -> None:
    async with house.http() as http:
        text = (await http.post(path, json={"model": "headrace", "stream": True} | STREAMS[path])).text
    event = DOCUMENT["paths"][path]["post"]["responses"]["200"]["content"]["text/event-stream"]["itemSchema"]
    check = validator(event["properties"]["data"]["anyOf"][1]["contentSchema"])
    events = [json.loads(line[6:]) for line in text.split("\n") if line.startswith("data: {")]
    assert len(events) > 3
    for one in events:
        check.validate(one)
    assert not check.is_valid({"anything": "else"})


async def test_the_document_is_served_where_it_is_configured(desk: Desk) -> None:
    async with desk.http() as http:
        response = await http.get("/openapi.json")
    assert response.status_code == 200
    assert response.json() == DOCUMENT


def test_the_command_prints_the_document():
    assert json.loads(CliRunner().invoke(command, ["openapi"]).stdout) == DOCUMENT
