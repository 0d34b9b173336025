"""Session tokens and tickets over HTTP and WebSocket, and what ends a connection that is open."""

import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from deployments.core.keys import NewKey
from deployments.core.tenants import Tenants
from tests.fakes import SCOPES, until
from tests.house import House


@pytest.fixture
async def key(house: House) -> NewKey:
    """A key that may mint."""
    return await house.context.keys.mint("ours", [*SCOPES, "tokens:mint"])


async def mint(house: House, key: NewKey, status: int = 200, **body: Any) -> dict[str, Any]:
    async with house.http(key.secret) as http:
        answer = await http.post("/v1/session_tokens", json={"user": "ann", **body})
    assert answer.status_code == status, answer.text
    return answer.json()


@contextlib.asynccontextmanager
async def page(house: House, *protocols: str, **headers: str) -> AsyncIterator[ClientConnection]:
    """A socket as a page of ours opens it."""
    url = house.url.replace("http", "ws") + "/v1/responses"
    sent = {"origin": house.url} | headers
    names: Any = list(protocols) or None
    async with connect(url, additional_headers=sent, subprotocols=names, compression=None, proxy=None) as connection:
        yield connection


def carried(token: str) -> str:
    return f"openai-insecure-api-key.{token}"


async def answered(connection: ClientConnection) -> str:
    await connection.send(json.dumps({"type": "response.create", "model": "headrace", "input": "Hi"}))
    async for message in connection:
        event = json.loads(message)
        if event["type"] in ("response.completed", "error"):
            return event["type"]
    raise AssertionError("the socket closed")


async def refused(house: House, *protocols: str, **headers: str) -> int:
    with pytest.raises(InvalidStatus) as error:
        async with page(house, *protocols, **headers):
            pass
    return error.value.response.status_code


async def drain(connection: ClientConnection) -> None:
    while True:
        await connection.recv()


async def closed(connection: ClientConnection, within_s: float = 2) -> int | None:
    """The code a socket is closed with, and soon enough."""
    begun = time.monotonic()
    with pytest.raises(ConnectionClosed) as error:
        await drain(connection)
    assert time.monotonic() - begun <= within_s
    return error.value.rcvd.code if error.value.rcvd else None


async def test_a_session_token_asks_for_its_user_with_the_unmodified_client(house: House, key: NewKey) -> None:
    made = await mint(house, key, ttl_s=60)
    answer = await house.openai(made["token"]).chat.completions.create(model="headrace", messages=[{"role": "user", "content": "Hi"}])
    assert answer.choices[0].message.content == "Hello world."
    caller = house.flow.turns[0].principal
    assert (caller.tenant, caller.key_id, caller.user, caller.scopes) == ("ours", key.id, "ann", {"chat"})
    async with house.http(made["token"]) as http:
        assert (await http.get("/v1/vector_stores")).status_code == 403
        assert (await http.post("/v1/session_tokens", json={"user": "eve"})).status_code == 403


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"scopes": ["admin"]}, 403),
        ({"scopes": ["tokens:mint"]}, 403),
        ({"ttl_s": 3601}, 400),
        ({"ttl_s": 0}, 400),
        ({"user": ""}, 400),
        ({"user": "a\nb"}, 400),
        ({"scopes": []}, 400),
        ({"tenant": "theirs"}, 400),
        ({"kind": "forever"}, 400),
    ],
    ids=str,
)
async def test_a_token_gets_no_more_than_its_key_has(house: House, key: NewKey, body: dict[str, Any], status: int) -> None:
    await mint(house, key, status, **body)


async def test_a_page_opens_a_socket_with_a_session_token(house: House, key: NewKey) -> None:
    token = (await mint(house, key))["token"]
    for _ in range(2):
        async with page(house, "headrace", carried(token)) as connection:
            assert connection.subprotocol == "headrace"
            assert await answered(connection) == "response.completed"
    assert house.flow.turns[0].principal.user == "ann"


async def test_a_ticket_opens_one_socket_and_no_request(house: House, key: NewKey) -> None:
    ticket = (await mint(house, key, kind="ticket"))["token"]
    async with house.http(ticket) as http:
        assert (await http.get("/v1/models")).status_code == 401
    assert await refused(house, authorization=f"Bearer {ticket}") == 401
    async with page(house, "headrace", carried(ticket)) as connection:
        assert await refused(house, "headrace", carried(ticket)) == 401
        assert await answered(connection) == "response.completed"
    assert await refused(house, "headrace", carried(ticket)) == 401


async def test_a_page_sends_no_key_and_a_foreign_page_sends_nothing(house: House, key: NewKey) -> None:
    assert await refused(house, "headrace", carried(house.key)) == 401
    assert await refused(house, "headrace") == 401
    token = (await mint(house, key))["token"]
    assert await refused(house, "headrace", carried(token), origin="https://evil.example") == 403
    files = (await mint(house, key, scopes=["files:read"]))["token"]
    assert await refused(house, "headrace", carried(files)) == 403


async def test_a_socket_is_closed_to_who_may_not_open_it(house: House) -> None:
    keys = house.context.keys
    expired = await keys.mint("ours", SCOPES, expires_at=int(time.time()))
    revoked = await keys.mint("ours", SCOPES)
    await keys.revoke(revoked.id)
    await keys.add_tenant("stopped", "stopped")
    stopped = await keys.mint("stopped", SCOPES)
    await Tenants(house.context.store, "test").suspend("stopped")
    for secret, status in ((expired.secret, 401), (revoked.secret, 401), (stopped.secret, 403), ("hr_wrong", 401)):
        assert await refused(house, authorization=f"Bearer {secret}") == status


@pytest.mark.parametrize("kind", ["key", "session", "ticket"])
async def test_an_open_socket_ends_with_its_key(house: House, key: NewKey, kind: str) -> None:
    protocols, headers = ["headrace"], {}
    if kind == "key":
        headers["authorization"] = f"Bearer {key.secret}"
    else:
        protocols.append(carried((await mint(house, key, kind=kind))["token"]))
    async with page(house, *protocols, **headers) as connection:
        assert await answered(connection) == "response.completed"
        await house.context.keys.revoke(key.id)
        assert await closed(connection) == 1008


async def test_an_open_socket_ends_with_its_tenants_suspension_and_its_answers_too(house: House, key: NewKey) -> None:
    house.flow.pieces, house.flow.pause_s = ["w "] * 1000, 0.01
    async with page(house, authorization=f"Bearer {key.secret}") as connection, page(house, authorization=f"Bearer {key.secret}") as idle:
        await connection.send(json.dumps({"type": "response.create", "model": "headrace", "input": "Hi"}))
        await connection.recv()
        await Tenants(house.context.store, "test").suspend("ours")
        assert await closed(connection) == 1008
        assert await closed(idle) == 1008
    await until(lambda: house.flow.ended_early, equals=1)
    await until(lambda: house.context.sockets, equals=set())


async def test_an_open_socket_ends_when_its_token_does(house: House, key: NewKey) -> None:
    token = (await mint(house, key, ttl_s=2))["token"]
    async with page(house, "headrace", carried(token)) as connection:
        assert await closed(connection, within_s=4) == 1008
