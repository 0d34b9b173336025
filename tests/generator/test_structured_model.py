"""Structured output by the embedded model: what it says ends well only where it fits the schema."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from random import Random
from typing import Any

import jsonschema
import pytest

from deployments.core import config
from deployments.core.errors import InvalidOutput
from deployments.core.types import Generation, LogRef, Message, Sampling
from deployments.gateway.structured import JsonSchema, asked
from deployments.generator.backends import Backend
from deployments.generator.chain import Chain
from deployments.generator.llama import LlamaServer
from deployments.generator.sse import Piece
from deployments.generator.structured import structured

TEXT, WHOLE, TRUTH = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}
SLOTS, TOKENS = 2, 256


def record(strict: bool = True, **properties: Any) -> dict[str, Any]:
    """An object of those properties."""
    closed = {"required": list(properties), "additionalProperties": False} if strict else {}
    return {"type": "object", "properties": properties, **closed}


def many(items: dict[str, Any], **bounds: int) -> dict[str, Any]:
    return {"type": "array", "items": items, **bounds}


PLACE = record(street=TEXT, number=WHOLE, town=TEXT)
SCHEMAS = {
    "a person": record(name=TEXT, age=WHOLE),
    "the mood of 'I love this mill'": record(mood={"enum": ["good", "bad", "neither"]}),
    "three words for water": record(words=many(TEXT, minItems=3, maxItems=3)),
    "an address": PLACE,
    "a person and where they live": record(name=TEXT, home=PLACE),
    "whether wheat is a grain": record(grain=TRUTH, why=TEXT),
    "a temperature in Celsius": record(celsius={"type": "integer", "minimum": -50, "maximum": 50}),
    "a date of the summer": record(day={"type": "string", "format": "date"}),
    "a bird, which may have no name": record(kind=TEXT, name={"type": ["string", "null"]}),
    "a number or a word": record(value={"anyOf": [WHOLE, TEXT]}),
    "two mills with their towns": record(mills=many(record(name=TEXT, town=TEXT), minItems=2, maxItems=2)),
    "a book": record(title=TEXT, author=TEXT, pages=WHOLE, read=TRUTH),
    "a plate of a car": record(plate={"type": "string", "pattern": "^[A-Z]{3}-[0-9]{3}$"}),
    "a version": record(kind={"const": "version"}, major=WHOLE, minor=WHOLE),
    "a tree of two levels": {**record(root={"$ref": "#/$defs/node"}), "$defs": {"node": record(name=TEXT, leaves=many(TEXT, maxItems=2))}},
    "a recipe": record(dish=TEXT, steps=many(TEXT, minItems=1, maxItems=4), minutes=WHOLE),
    "a ticket": record(strict=False, subject=TEXT, urgent=TRUTH, labels=many({"enum": ["bug", "question", "idea"]}, maxItems=3)),
    "a dice roll": record(eyes={"enum": [1, 2, 3, 4, 5, 6]}),
    "a short motto": record(motto={"type": "string", "minLength": 3, "maxLength": 40}),
    "what follows": record(next={"type": "null"}),
}


@pytest.fixture
async def chain() -> AsyncIterator[Chain]:
    """The embedded model, reached as the generator reaches it."""
    settings = config.Generator(slots=SLOTS)
    server = await asyncio.to_thread(LlamaServer, settings)
    chain = Chain(lambda one: Backend(server.base_url, server.api_key, one.model, settings, embedded=True), settings, Random(0))
    yield chain
    await chain.close()
    server.close()


def answer(chain: Chain, wanted: str, schema: dict[str, Any], seed: int) -> AsyncGenerator[Piece]:
    spec = JsonSchema(name="wanted", strict="required" in schema, schema=schema)  # pyright: ignore[reportCallIssue]
    sampling = Sampling(max_tokens=TOKENS, seed=seed, schema=asked(spec, "schema", held=seed % 2 == 0))
    generation = Generation(LogRef("r", "t", (), record=False), (Message("user", f"Give me {wanted} as JSON."),), sampling, (), (), 300)
    return structured(chain.stream, generation)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("count", [1, pytest.param(25, marks=pytest.mark.full)])
async def test_most_answers_fit_and_none_that_does_not_is_called_whole(chain: Chain, count: int) -> None:
    ended, wrong, slots = Counter[str](), Counter[str](), asyncio.Semaphore(SLOTS)

    async def ask(wanted: str, schema: dict[str, Any], seed: int) -> None:
        text, reason = "", None
        async with slots:
            try:
                async for piece in answer(chain, wanted, schema, seed):
                    text, reason = text + piece.text, piece.reason or reason
            except InvalidOutput as error:
                reason = error.wire_code
        if reason == "stop":
            jsonschema.validate(json.loads(text), schema, format_checker=jsonschema.FormatChecker())
        else:
            wrong[wanted] += 1
        ended[reason or "nothing"] += 1

    await asyncio.gather(*(ask(wanted, schema, seed) for seed in range(count) for wanted, schema in SCHEMAS.items()))
    print(f"\n{ended.total()} answers to {len(SCHEMAS)} schemas: {dict(ended)}; not whole: {dict(wrong)}")  # noqa: T201
    assert set(ended) <= {"stop", "length", "invalid_structured_output"}
    assert ended["stop"] >= 0.9 * ended.total()
