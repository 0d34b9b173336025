"""A7: no header of Ray Serve's steers anything of ours, whether or not the edge has taken it out."""

import asyncio
import re
from typing import Any

import pytest

from deployments.core.config import Settings
from deployments.gateway.app import routed
from tests.fakes import until
from tests.house import House

HEADERS = {
    "x-request-timeout-seconds": "0.001",
    "x-request-disconnect-disabled": "?1",
    "x-session-id": "s",
    "serve_multiplexed_model_id": "other",
    "x-ray-authorization": "Bearer x",
    "x-haproxy-reload-id": "1",
    "x-serve-call-method": "shutdown",
}
ROUTES = [(path, method) for path, methods in routed(Settings()).openapi()["paths"].items() for method in methods]
BODY: dict[str, Any] = {"model": "headrace", "messages": [{"role": "user", "content": "Hi"}]}


def plain(text: str) -> str:
    """An answer without what differs from one to the next."""
    return re.sub(r'[a-z]+[-_]?[0-9a-f]{32}|"(created|created_at|ms)": ?[0-9.]+', "", text)


@pytest.mark.parametrize("name", HEADERS)
async def test_every_route_answers_with_it_as_without(house: House, name: str) -> None:
    async with house.http() as http:
        for path, method in ROUTES:
            url = re.sub(r"{\w+}", "none", path)
            without = await http.request(method, url, json={} if method == "post" else None)
            steered = await http.request(method, url, json={} if method == "post" else None, headers={name: HEADERS[name]})
            assert (steered.status_code, plain(steered.text)) == (without.status_code, plain(without.text)), (path, method)


async def test_an_answer_takes_its_time_whatever_they_say(house: House) -> None:
    house.flow.pieces, house.flow.pause_s = ["a", "b", "c"], 0.2
    async with house.http() as http:
        response = await http.post("/v1/chat/completions", json=BODY, headers=HEADERS)
    assert response.json()["choices"][0]["message"]["content"] == "abc"


async def test_a_client_that_leaves_ends_its_answer_whatever_they_say(house: House) -> None:
    house.flow.pieces, house.flow.pause_s = ["word "] * 1000, 0.01

    async def leave() -> None:
        async with (
            house.http() as http,
            http.stream("POST", "/v1/chat/completions", json=BODY | {"stream": True}, headers=HEADERS) as answer,
        ):
            async for _ in answer.aiter_bytes():
                return

    await asyncio.wait_for(leave(), 10)
    await until(lambda: house.flow.ended_early, equals=1)
