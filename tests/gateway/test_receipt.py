"""Bodies that trickle in."""

import asyncio
from itertools import chain, repeat

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import Message

from deployments.gateway.receipt import Receipt


async def length(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(len(await request.body())))


async def ask(pause_s: float, pieces: list[bytes], ends: bool = True) -> tuple[int, bytes]:
    """Status and body of the answer to a body that comes in pieces."""
    left = chain((piece for piece in pieces), [b""] if ends else repeat(b"x"))
    answer: list[Message] = []

    async def receive() -> Message:
        await asyncio.sleep(pause_s)
        piece = next(left)
        return {"type": "http.request", "body": piece, "more_body": piece != b""}

    async def send(message: Message) -> None:
        answer.append(message)

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [], "query_string": b""}
    app = Starlette(routes=[Route("/", length, methods=["POST"])])
    await Receipt(app, grace_s=0.2, slowest_bytes_s=1000)(scope, receive, send)
    return answer[0]["status"], answer[1]["body"]


@pytest.mark.parametrize(("pause_s", "pieces"), [(0, [b"x"] * 50), (0.05, [b"x" * 100] * 10)], ids=["at once", "slow but steady"])
async def test_a_body_that_comes_fast_enough_is_read(pause_s: float, pieces: list[bytes]):
    assert await ask(pause_s, pieces) == (200, str(sum(map(len, pieces))).encode())


async def test_a_body_that_trickles_is_cut():
    async with asyncio.timeout(2):
        assert (await ask(0.02, [], ends=False))[0] == 408


async def test_a_body_that_stops_is_cut():
    async with asyncio.timeout(2):
        assert (await ask(0.5, [b"x"]))[0] == 408
