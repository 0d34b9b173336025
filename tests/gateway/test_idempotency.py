"""`Idempotency-Key` over HTTP: the same request, sent twice, is answered once."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx2
import pytest
from redis.asyncio import Redis
from sqlalchemy import func, select

from deployments.core.errors import Overloaded, StreamInterrupted
from deployments.core.follow import Hub
from deployments.core.idempotency import Claim
from deployments.core.keys import Keys
from deployments.core.outbox import Outbox
from deployments.core.tables import AttemptRow
from deployments.core.types import Citation
from deployments.gateway.idempotency import _digest, _name
from tests.fakes import database, until
from tests.house import House, serving

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
CITED: list[str | Citation] = ["Hello ", "[1]", Citation(6, 9, 1, "https://rag.example/files/file_1", "handbook.md")]


def chat(**fields: object) -> dict[str, Any]:
    return {"model": "headrace-direct", "messages": [{"role": "user", "content": "Hi"}]} | fields


def respond(**fields: object) -> dict[str, Any]:
    return {"model": "headrace-direct", "input": "Hi"} | fields


async def post(http: httpx2.AsyncClient, path: str, body: dict[str, Any], key: str = "k", **headers: str) -> httpx2.Response:
    return await http.post(path, json=body, headers={"idempotency-key": key, **headers}, timeout=30)


def content(reply: httpx2.Response) -> tuple[int, str, bytes]:
    return reply.status_code, reply.headers["content-type"], reply.content


REQUESTS: list[tuple[str, dict[str, Any]]] = [
    (CHAT, chat()),
    (CHAT, chat(stream=True)),
    (CHAT, chat(stream=True, n=2)),
    ("/v1/completions", {"model": "headrace-direct", "prompt": "Hi"}),
    (RESPONSES, respond()),
    (RESPONSES, respond(stream=True)),
    (RESPONSES, respond(stream=True, store=False)),
    (RESPONSES, respond(background=True)),
    ("/v1/conversations", {"metadata": {"a": "b"}}),
    ("/v1/vector_stores", {"name": "docs"}),
]


@pytest.mark.parametrize(("path", "body"), REQUESTS)
async def test_the_same_request_gets_the_same_reply_once_more(house: House, path: str, body: dict[str, Any]) -> None:
    house.flow.pieces = CITED
    async with house.http() as http:
        first = await post(http, path, body)
        asked = len(house.flow.turns)
        again = await post(http, path, body)
    assert first.status_code == 200, first.text
    assert content(again) == content(first)
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    assert len(house.flow.turns) <= max(asked, 1)  # a background response may be taken up after its reply


async def test_a_file_is_uploaded_once_though_the_boundary_of_the_form_differs(house: House) -> None:
    async with house.http() as http:
        sent = [
            await http.post("/v1/files", data={"purpose": "assistants"}, files={"file": ("a.md", words)}, headers={"idempotency-key": "k"})
            for words in (b"# Title", b"# Title", b"# Other")
        ]
    assert sent[0].request.headers["content-type"] != sent[1].request.headers["content-type"]
    assert sent[0].json()["id"] == sent[1].json()["id"]
    assert (sent[2].status_code, sent[2].json()["error"]["code"]) == (422, "idempotency_key_reused")


async def test_the_same_key_with_another_body_is_422_and_is_not_to_be_tried_again(house: House) -> None:
    async with house.http() as http:
        await post(http, CHAT, chat())
        reply = await post(http, CHAT, chat(temperature=1))
        elsewhere = await post(http, "/v1/completions", {"model": "headrace-direct", "prompt": "Hi"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (422, "idempotency_key_reused")
    assert elsewhere.status_code == 200  # a key is good for one endpoint
    assert len(house.flow.turns) == 2


@pytest.mark.parametrize("key", ["", "k" * 256, "caf\u00e9", "a\tb"])
async def test_a_key_that_is_none_is_400(house: House, key: str) -> None:
    async with house.http() as http:
        reply = await http.post(CHAT, json=chat(), headers=[(b"idempotency-key", key.encode("latin-1"))])
        twice = await http.post(CHAT, json=chat(), headers=[("idempotency-key", "a"), ("idempotency-key", "b")])
    for refused in (reply, twice):
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "idempotency-key")
    assert house.flow.turns == []


async def test_duplicates_in_flight_wait_for_the_first(house: House) -> None:
    house.flow.pause_s = 0.1
    async with house.http() as http:
        replies = await asyncio.gather(*(post(http, CHAT, chat(stream=True)) for _ in range(20)))
    assert len({content(reply) for reply in replies}) == 1
    assert len(house.flow.turns) == 1
    assert sum("idempotent-replayed" in reply.headers for reply in replies) == 19


async def test_another_body_is_refused_while_the_first_is_in_flight(house: House) -> None:
    house.flow.pause_s = 0.3
    async with house.http() as http:
        first = asyncio.create_task(post(http, CHAT, chat()))
        await until(lambda: len(house.flow.turns), equals=1)
        assert (await post(http, CHAT, chat(temperature=1))).status_code == 422
        assert (await first).status_code == 200


async def test_a_duplicate_that_waited_too_long_is_told_to_come_back(house: House) -> None:
    house.flow.pieces, house.flow.pause_s = ["a "] * 40, 0.2
    async with house.http() as http:
        first = asyncio.create_task(post(http, CHAT, chat()))
        await until(lambda: len(house.flow.turns), equals=1)
        reply = await post(http, CHAT, chat())
        first.cancel()
    assert (reply.status_code, reply.json()["error"]["code"]) == (409, "idempotency_key_in_flight")
    assert reply.headers["retry-after-ms"] == "1000"
    assert len(house.flow.turns) == 1


@pytest.mark.parametrize("error", [Overloaded("full", retry_after_s=1), StreamInterrupted("broke")])
@pytest.mark.parametrize(("path", "body"), [(CHAT, chat()), (CHAT, chat(stream=True)), (RESPONSES, respond(stream=True))])
@pytest.mark.parametrize("pieces", [[], ["Hello "]])
async def test_a_failed_attempt_leaves_the_key_as_it_was(
    house: House, path: str, body: dict[str, Any], error: Any, pieces: list[str | Citation]
) -> None:
    house.flow.error, house.flow.pieces = error, pieces
    async with house.http() as http:
        await post(http, path, body)
        house.flow.error, house.flow.pieces = None, ["Well."]
        again = await post(http, path, body)
    assert again.status_code == 200
    assert "Well." in again.text
    assert len(house.flow.turns) == 2


async def test_a_request_that_was_wrong_may_be_put_right_under_its_key(house: House) -> None:
    async with house.http() as http:
        assert (await post(http, CHAT, chat(model="gpt-9"))).status_code == 404
        assert (await post(http, CHAT, {"model": "headrace-direct"})).status_code == 400
        assert (await post(http, CHAT, chat())).status_code == 200


@pytest.mark.parametrize("body", [respond(stream=True), respond(stream=True, store=False)])
async def test_a_client_that_went_away_may_ask_again(house: House, body: dict[str, Any]) -> None:
    house.flow.pieces, house.flow.pause_s = ["a "] * 50, 0.05
    async with house.http() as http:
        request = http.build_request("POST", RESPONSES, json=body, headers={"idempotency-key": "k"})
        reply = await http.send(request, stream=True)
        await anext(reply.aiter_bytes())
        await reply.aclose()
        await until(lambda: house.flow.ended_early, equals=1)
        house.flow.pieces, house.flow.pause_s = ["All of it."], 0
        again = await post(http, RESPONSES, body)
    assert "All of it." in again.text
    assert len(house.flow.turns) == 2


GOES_ON = {"x-headrace-on-disconnect": "continue"}


def told(body: bytes) -> bytes:
    """A stream without its pauses."""
    return body.replace(b": keep-alive\n\n", b"")


async def test_duplicates_follow_a_response_that_outlives_its_connection(house: House) -> None:
    house.flow.pieces, house.flow.pause_s = ["one ", "two ", "three"], 0.5
    async with house.http() as http:
        first = asyncio.create_task(post(http, RESPONSES, respond(stream=True), **GOES_ON))
        await until(lambda: len(house.flow.turns), equals=1)
        request = http.build_request("POST", RESPONSES, json=respond(stream=True), headers={"idempotency-key": "k", **GOES_ON})
        second = await http.send(request, stream=True)
        assert not first.done()  # it does not wait for the end
        followed, whole = await second.aread(), (await first).content
    assert told(followed) == told(whole)
    assert len(house.flow.turns) == 1


async def test_a_follower_waits_for_an_end_that_is_kept_and_not_told_yet(house: House) -> None:
    house.flow.hesitates_s = 0.7  # three beats in which nothing comes
    async with house.http() as http:
        reply = await post(http, RESPONSES, respond(stream=True), **GOES_ON)
    assert "event: response.completed" in reply.text


async def test_duplicates_get_an_outliving_response_whole(house: House) -> None:
    house.flow.pieces, house.flow.pause_s = ["one ", "two"], 0.1
    async with house.http() as http:
        replies = await asyncio.gather(*(post(http, RESPONSES, respond(), **GOES_ON) for _ in range(5)))
    assert len({content(reply) for reply in replies}) == 1
    assert len(house.flow.turns) == 1


async def test_who_lost_the_connection_to_an_outliving_response_finds_it_again(house: House) -> None:
    house.flow.pieces, house.flow.pause_s = ["one ", "two ", "three"], 0.2
    async with house.http() as http:
        request = http.build_request("POST", RESPONSES, json=respond(stream=True), headers={"idempotency-key": "k", **GOES_ON})
        lost = await http.send(request, stream=True)
        await anext(lost.aiter_bytes())
        await lost.aclose()
        again = await post(http, RESPONSES, respond(stream=True), **GOES_ON)
        other = await post(http, RESPONSES, respond(stream=True, temperature=1), **GOES_ON)
    assert "one two three" in again.text
    assert again.text.endswith("data: [DONE]\n\n")
    assert other.status_code == 422
    assert len(house.flow.turns) == 1


@contextlib.asynccontextmanager
async def second_gateway(house: House, valkey: Redis) -> AsyncIterator[httpx2.AsyncClient]:
    """Another gateway over the same SQL database and Valkey, as another process has it."""
    settings = house.context.settings
    async with database(settings.data_dir, time.time) as store:
        hub = Hub(valkey, settings.log)
        outbox = Outbox(valkey, settings.log, local=hub)
        context = replace(house.context, store=store, keys=Keys(store, b"pepper"), hub=hub, outbox=outbox)
        async with serving(context) as url, httpx2.AsyncClient(base_url=url, headers={"authorization": f"Bearer {house.key}"}) as http:
            yield http


@pytest.mark.parametrize(("path", "body"), [(CHAT, chat(stream=True)), (RESPONSES, respond()), (RESPONSES, respond(background=True))])
async def test_duplicates_meet_across_gateways(house: House, valkey: Redis, path: str, body: dict[str, Any]) -> None:
    house.flow.pause_s = 0.1
    async with house.http() as one, second_gateway(house, valkey) as other:
        replies = await asyncio.gather(*(post(http, path, body) for http in (one, other) * 5))
    assert {reply.status_code for reply in replies} == {200}
    if body.get("background"):
        assert len({reply.json()["id"] for reply in replies}) == 1
    else:
        assert len({content(reply) for reply in replies}) == 1
    await until(lambda: len(house.flow.turns), equals=1)


async def test_a_gateway_that_died_with_the_claim_blocks_the_key_no_longer_than_its_lease(house: House) -> None:
    caller = await house.context.keys.verify(house.key)
    async with house.http() as http:
        request = http.build_request("POST", CHAT, json=chat())
        name, content_of = _name(caller, CHAT, "k"), await _digest(request.content, "application/json")
        dead = await house.context.store.of(caller).attempts.claim(name, content_of, house.context.settings.idempotency.lease_s, 60)
        assert isinstance(dead, Claim)
        started = time.monotonic()
        reply = await post(http, CHAT, chat())
    assert reply.status_code == 200
    assert time.monotonic() - started > 0.5  # and less than `wait_s`, or it were 409


async def test_a_long_answer_is_not_taken_from_a_gateway_that_lives(house: House, valkey: Redis) -> None:
    house.flow.pieces, house.flow.pause_s = ["a "] * 18, 0.2
    async with house.http() as one, second_gateway(house, valkey) as other:
        first = asyncio.create_task(post(one, CHAT, chat()))
        await until(lambda: len(house.flow.turns), equals=1)
        second = await post(other, CHAT, chat())
        assert content(second) == content(await first)
    assert len(house.flow.turns) == 1


async def test_a_kept_reply_is_for_nobody_without_the_scope(house: House) -> None:
    reader = await house.context.keys.mint("ours", ["files:read"])
    async with house.http() as http, house.http(reader.secret) as other, house.http(None) as nobody:
        await post(http, CHAT, chat())
        assert (await post(other, CHAT, chat())).status_code == 403
        assert (await post(nobody, CHAT, chat())).status_code == 401


async def test_a_body_over_its_bound_is_413_with_a_key_as_well(house: House) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b" " * 1000

    async with house.http() as http:
        reply = await http.post(CHAT, content=endless(), headers={"idempotency-key": "k", "content-type": "application/json"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "request_too_large")


@pytest.mark.parametrize("key", ["' OR '1'='1", "'; DROP TABLE attempts; --", '" UNION SELECT * FROM api_keys --', "%", "${jndi:ldap://x}"])
async def test_a_hostile_key_is_a_key_like_any_other(house: House, key: str) -> None:
    async with house.http() as http:
        first, again = await post(http, CHAT, chat(), key), await post(http, CHAT, chat(), key)
        other = await post(http, CHAT, chat(), key + "x")
    assert content(first) == content(again) != content(other)
    async with house.context.store.session() as session:
        assert await session.scalar(select(func.count()).select_from(AttemptRow)) == 2
