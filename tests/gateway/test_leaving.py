"""A server that is to end: its sockets are closed with 1012, but none before what was asked over it is answered."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from deployments.gateway.app import build_app
from deployments.gateway.frames import Bounded
from tests.house import House, listening

WORDS = [f"word{number} " for number in range(10)]


class Ending:
    """A second server over the same context, and sockets to it."""

    def __init__(self, house: House):
        self._house = house
        self._stack = contextlib.AsyncExitStack()

    async def start(self) -> None:
        app = build_app(self._house.context)
        self._url = await self._stack.enter_async_context(listening(app, lifespan="off", ws=Bounded))

    async def end(self) -> None:
        await self._stack.aclose()

    async def socket(self) -> ClientConnection:
        headers = {"authorization": f"Bearer {self._house.key}"}
        return await connect(self._url.replace("http", "ws") + "/v1/responses", additional_headers=headers, proxy=None)


@pytest.fixture
async def ending(house: House) -> AsyncIterator[Ending]:
    house.flow.pieces, house.flow.pause_s = WORDS, 0.1
    ending = Ending(house)
    await ending.start()
    yield ending
    await ending.end()


async def ask(socket: ClientConnection, **fields: Any) -> None:
    await socket.send(json.dumps({"type": "response.create", "model": "headrace", "input": "Hi"} | fields))


async def heard(socket: ClientConnection) -> list[dict[str, Any]]:
    """Everything until it is closed."""
    events: list[dict[str, Any]] = []
    with contextlib.suppress(ConnectionClosed):
        while True:
            events.append(json.loads(await socket.recv()))
    return events


async def test_an_idle_socket_is_closed_at_once_and_a_busy_one_behind_its_answer(ending: Ending) -> None:
    idle, busy = await ending.socket(), await ending.socket()
    await ask(busy)
    first = json.loads(await busy.recv())
    hearing = asyncio.create_task(heard(busy))
    end = asyncio.create_task(ending.end())
    assert await heard(idle) == []
    assert not hearing.done()
    events = [first, *await hearing]
    assert events[-1]["type"] == "response.completed"
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == "".join(WORDS)
    assert (idle.close_code, busy.close_code) == (1012, 1012)
    await end


async def test_nothing_more_may_be_asked_meanwhile(ending: Ending) -> None:
    idle, busy = await ending.socket(), await ending.socket()
    await ask(busy, stream_id="first")
    await busy.recv()
    hearing = asyncio.create_task(heard(busy))
    end = asyncio.create_task(ending.end())
    await heard(idle)
    await ask(busy, stream_id="second")
    events = await hearing
    (refused,) = [event for event in events if event["stream_id"] == "second"]
    assert refused["error"]["code"] == "server_overloaded"
    assert events[-1]["stream_id"] == "first"
    assert events[-1]["type"] == "response.completed"
    await end


async def test_a_client_that_goes_meanwhile_ends_its_answer(house: House, ending: Ending) -> None:
    busy = await ending.socket()
    await ask(busy)
    await busy.recv()
    end = asyncio.create_task(ending.end())
    await busy.close()
    await end
    assert house.context.hub.followed == 0
