"""B7: an answer ends while it is written once its key is revoked or its tenant suspended: with an error that says so, and paid for."""

import asyncio
import json
from typing import Any

import pytest
from httpx2 import AsyncClient
from redis.asyncio import Redis

from deployments.core.log import read
from deployments.core.tenants import Tenants
from deployments.core.types import LogRef, Text
from deployments.core.usage import Books
from tests.fakes import until
from tests.house import House

CHAT: dict[str, Any] = {"model": "headrace-direct", "messages": [{"role": "user", "content": "Hi"}]}
ASK: dict[str, Any] = {"model": "headrace-direct", "input": "Hi"}
TEXT: dict[str, Any] = {"model": "headrace-direct", "prompt": "Hi"}
ANSWERS = [
    ("/v1/chat/completions", CHAT, 1),
    ("/v1/chat/completions", CHAT | {"n": 2}, 2),
    ("/v1/completions", TEXT, 1),
    ("/v1/responses", ASK, 1),
    ("/v1/responses", ASK | {"background": True}, 0),
]
"""Where, what is asked, and how many generations end with it: one in the background goes on."""

CODES = {"revoked": (401, "invalid_api_key"), "suspended": (403, "tenant_suspended")}


async def secret(house: House) -> tuple[str, str]:
    """A key whose use can be told from others', and its secret; its answers take long."""
    house.flow.pieces, house.flow.pause_s = ["w "] * 300, 0.01
    key = await house.context.keys.mint("ours", ["chat"])
    return key.id, key.secret


async def end(house: House, key_id: str, how: str) -> None:
    await (house.context.keys.revoke(key_id) if how == "revoked" else Tenants(house.context.store, "test").suspend("ours"))


async def cut(house: House, http: AsyncClient, path: str, body: dict[str, Any], key_id: str, how: str) -> list[str]:
    """The lines of a stream whose caller may not go on once it has begun to speak."""
    lines: list[str] = []
    async with http.stream("POST", path, json=body | {"stream": True}) as response:
        async for line in response.aiter_lines():
            lines.append(line)
            if "w " in line and not any("w " in before for before in lines[:-1]):
                await end(house, key_id, how)
    return lines


@pytest.mark.parametrize("how", CODES)
@pytest.mark.parametrize(("path", "body", "generations"), ANSWERS)
async def test_a_stream_ends_with_an_error_of_its_own(house: House, path: str, body: dict[str, Any], generations: int, how: str) -> None:
    key_id, word = await secret(house)
    async with asyncio.timeout(2), house.http(word) as http:
        lines = await cut(house, http, path, body, key_id, how)
    last = json.loads([line for line in lines if line.startswith("data: {")][-1].removeprefix("data: "))
    assert last.get("error", last)["code"] == CODES[how][1]
    await until(lambda: house.flow.ended_early, equals=generations)
    await until(lambda: not house.context.outbox.writers or not generations)
    assert not house.context.watch._watched


@pytest.mark.parametrize("how", CODES)
@pytest.mark.parametrize(("path", "body", "generations"), ANSWERS[:4])
async def test_an_answer_that_has_not_begun_gets_a_status(
    house: House, path: str, body: dict[str, Any], generations: int, how: str
) -> None:
    key_id, word = await secret(house)
    async with asyncio.timeout(2), house.http(word) as http:
        waiting = asyncio.create_task(http.post(path, json=body))
        await until(lambda: len(house.flow.turns), equals=generations)
        await end(house, key_id, how)
        answer = await waiting
    assert (answer.status_code, answer.json()["error"]["code"]) == CODES[how]
    await until(lambda: house.flow.ended_early, equals=generations)


async def test_what_was_written_until_then_is_paid_for_and_nothing_is_held(house: House, valkey: Redis) -> None:
    key_id, word = await secret(house)
    async with house.http(word) as http:
        lines = await cut(house, http, "/v1/chat/completions", CHAT, key_id, "revoked")
    gate = house.context.gate
    await until(lambda: not gate._leases and not gate._ended)
    await until(lambda: valkey.hlen("hr:adm:leases"), equals=0)
    await gate._books.flush()
    (use,) = await Books(house.context.store).of("ours", 1)
    recorded = await read(valkey, LogRef(house.flow.turns[0].id, "ours", (), record=True))
    written = sum(delta.tokens for delta in recorded if isinstance(delta, Text))
    assert (use.key_id, use.requests) == (key_id, 1)
    assert 0 < sum(line.count("w ") for line in lines) <= use.completion_tokens <= written
