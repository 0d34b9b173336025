"""Limits, quotas, queues and books as callers and administrators see them."""

import asyncio
import json
from typing import Any

import pytest

from deployments.core.config import Pool
from deployments.core.errors import BackendFailed
from deployments.core.keys import SCOPES as ALL_SCOPES
from deployments.core.limits import Limits
from deployments.core.tenants import LimitTerms, Tenants, Terms
from tests.fakes import until
from tests.house import House

CHAT: dict[str, Any] = {"model": "headrace-direct", "messages": [{"role": "user", "content": "Hi"}]}
ASK: dict[str, Any] = {"model": "headrace-direct", "input": "Hi"}
EMBED: dict[str, Any] = {"model": "headrace-embed", "input": "Hi"}


async def limited(house: House, **limits: int) -> str:
    """A key of a tenant with limits."""
    await Tenants(house.context.store, "test").add(Terms(name="small", limits=LimitTerms(**limits)), "small")
    return (await house.context.keys.mint("small", ["chat"])).secret


def one_slot(house: House) -> None:
    house.context.gate._pool = Pool(low=1, high=1)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", CHAT),
        ("/v1/chat/completions", CHAT | {"stream": True}),
        ("/v1/chat/completions", CHAT | {"n": 2}),
        ("/v1/chat/completions", CHAT | {"n": 2, "stream": True}),
        ("/v1/completions", {"model": "headrace-direct", "prompt": "Hi"}),
        ("/v1/responses", ASK),
        ("/v1/responses", ASK | {"stream": True}),
        ("/v1/responses", ASK | {"background": True}),
        ("/v1/embeddings", EMBED),
    ],
)
async def test_a_limit_is_told_with_every_answer_and_with_its_refusal(house: House, path: str, body: dict[str, Any]) -> None:
    key = await limited(house, requests_per_minute=1, tokens_per_minute=10_000)
    async with house.http(key) as http:
        first, second = await http.post(path, json=body), await http.post(path, json=body)
    assert first.status_code == 200, first.text
    assert (first.headers["x-ratelimit-limit-requests"], first.headers["x-ratelimit-remaining-requests"]) == ("1", "0")
    assert first.headers["x-ratelimit-limit-tokens"] == "10000"
    assert 0 < int(first.headers["x-ratelimit-remaining-tokens"]) < 10_000
    assert first.headers["x-ratelimit-reset-requests"].endswith("s")
    assert second.status_code == 429
    assert second.json()["error"]["code"] == "rate_limit_exceeded"
    assert 50_000 < int(second.headers["retry-after-ms"]) <= 60_000
    assert second.headers["x-ratelimit-remaining-requests"] == "0"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_limit_is_told_with_an_answer_that_fails(house: House, stream: bool) -> None:
    house.flow.error, house.flow.pieces = BackendFailed("the model is away"), []
    async with house.http(await limited(house, requests_per_minute=7)) as http:
        response = await http.post("/v1/chat/completions", json=CHAT | {"stream": stream})
    assert (response.status_code, response.headers["x-ratelimit-remaining-requests"]) == (500, "6")


async def test_a_key_has_limits_of_its_own_within_those_of_its_tenant(house: House) -> None:
    tight = await house.context.keys.mint("ours", ["chat"], limits=Limits(requests_per_minute=1))
    async with house.http(tight.secret) as http, house.http() as other:
        assert [(await http.post("/v1/embeddings", json=EMBED)).status_code for _ in range(2)] == [200, 429]
        assert (await other.post("/v1/embeddings", json=EMBED)).status_code == 200


async def test_a_request_larger_than_its_limit_can_not_be_asked_again(house: House) -> None:
    async with house.http(await limited(house, tokens_per_minute=5)) as http:
        answer = await http.post("/v1/chat/completions", json=CHAT)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "request_exceeds_limit")


async def test_who_waits_hears_its_place_and_then_its_answer(house: House) -> None:
    one_slot(house)
    house.flow.pieces, house.flow.pause_s = ["word "] * 60, 0.05
    async with house.http() as http:
        first = asyncio.create_task(http.post("/v1/responses", json=ASK))
        await until(lambda: len(house.context.gate._leases) == 1)
        headers = {"x-headrace-events": "queue"}
        async with http.stream("POST", "/v1/responses", json=ASK | {"stream": True}, headers=headers) as response:
            assert response.status_code == 200
            lines = [line async for line in response.aiter_lines() if line.startswith("data: {")]
        events = [json.loads(line[6:]) for line in lines]
        assert (await first).status_code == 200
    places = [event["place"] for event in events if event["type"] == "headrace:queue"]
    assert places
    assert set(places) == {0}
    assert [event["type"] for event in events if event["type"] != "headrace:queue"][-1] == "response.completed"


async def test_who_waits_in_vain_gets_a_real_status_before_the_stream_has_begun(house: House) -> None:
    one_slot(house)
    house.flow.pieces, house.flow.pause_s = ["word "] * 60, 0.05
    async with house.http() as http:
        first = asyncio.create_task(http.post("/v1/chat/completions", json=CHAT))
        await until(lambda: len(house.context.gate._leases) == 1)
        house.context.gate._settings = house.context.gate._settings.model_copy(update={"wait_s": 0.0001})
        answer = await http.post("/v1/chat/completions", json=CHAT | {"stream": True})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "server_overloaded")
        assert int(answer.headers["retry-after-ms"]) >= 1
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)


@pytest.mark.parametrize(("path", "body"), [("/v1/chat/completions", CHAT), ("/v1/responses", ASK)])
async def test_who_waits_in_vain_is_told_at_the_end_of_a_stream_that_has_begun(house: House, path: str, body: dict[str, Any]) -> None:
    one_slot(house)
    house.flow.pieces, house.flow.pause_s = ["word "] * 80, 0.05
    gate = house.context.gate
    async with house.http() as http:
        first = asyncio.create_task(http.post("/v1/chat/completions", json=CHAT))
        await until(lambda: len(gate._leases) == 1)
        await until(lambda: house.flow.turns != [])
        gate._settings = gate._settings.model_copy(update={"wait_s": 1.1})
        async with http.stream("POST", path, json=body | {"stream": True}) as response:
            assert response.status_code == 200
            text = (await response.aread()).decode()
        assert '"retry_after_ms"' in text
        assert "server_overloaded" in text or '"response.failed"' in text
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)


async def test_administrators_see_the_books_and_the_load(house: House) -> None:
    admin = (await house.context.keys.mint("ours", list(ALL_SCOPES))).secret
    async with house.http() as http, house.http(admin) as admin_http:
        assert (await http.post("/v1/chat/completions", json=CHAT)).status_code == 200

        async def used() -> list[tuple[str, int, int, int]]:
            await house.context.gate._books.flush()
            days = (await admin_http.get("/admin/tenants/ours/usage")).json()["data"]
            return [(one["model"], one["requests"], one["prompt_tokens"], one["completion_tokens"]) for one in days]

        await until(used, equals=[("headrace-direct", 1, 10, 2)])
        load = (await admin_http.get("/admin/load")).json()
        assert (await http.get("/admin/load")).status_code == 403
    assert (load["running"], load["waiting"], load["jain"]) == (0, 0, 1.0)
