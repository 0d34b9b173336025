"""Many readers, and conversations that grow long, on the whole stack."""

import asyncio
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx2
import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.integration.conftest import Stack, end, start
from tests.loadtest.conftest import Simulator

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1500)]


@pytest.fixture
async def http(stack: Stack) -> AsyncIterator[httpx2.AsyncClient]:
    limits = httpx2.Limits(max_connections=1200)
    headers = {"authorization": f"Bearer {stack.key}"}
    async with httpx2.AsyncClient(base_url=stack.url, headers=headers, timeout=60, limits=limits) as client:
        yield client


async def first_words(http: httpx2.AsyncClient, count: int) -> list[float]:
    """How long each of so many streams at once took to its first word, in seconds, sorted."""

    async def one() -> float:
        body = {"model": "headrace-direct", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
        started, first = time.monotonic(), 0.0
        async with http.stream("POST", "/v1/chat/completions", json=body) as response:
            async for line in response.aiter_lines():
                if not first and '"content":"w0' in line:
                    first = time.monotonic() - started
        return first

    async def later(number: int) -> float:
        await asyncio.sleep(number * 0.02)
        return await one()

    return sorted(await asyncio.gather(*(later(number) for number in range(count))))


def p95(values: list[float]) -> float:
    return values[round(0.95 * len(values)) - 1]


async def opened(stack: Stack, count: int) -> list[ClientConnection]:
    """So many WebSockets, fifty at a time."""
    url, headers = stack.url.replace("http", "ws") + "/v1/responses", {"authorization": f"Bearer {stack.key}"}
    sockets: list[ClientConnection] = []
    while len(sockets) < count:
        options = {"additional_headers": headers, "proxy": None, "compression": None, "open_timeout": 30, "ping_interval": None}
        sockets += await asyncio.gather(*(connect(url, **options) for _ in range(50)))
    return sockets


@pytest.mark.parametrize("count", [100, pytest.param(2000, marks=pytest.mark.full)])
async def test_idle_sockets_cost_little_and_slow_down_nobody(stack: Stack, http: httpx2.AsyncClient, count: int) -> None:
    gateway = stack.named("ServeReplica:headrace:gateway")
    await first_words(http, 50)
    alone = statistics.median([p95(await first_words(http, 50)) for _ in range(3)])
    before = gateway.memory_info().rss
    sockets = await opened(stack, count)
    try:
        each = (gateway.memory_info().rss - before) / count / 1024
        beside = statistics.median([p95(await first_words(http, 50)) for _ in range(3)])
        await sockets[-1].send(json.dumps({"type": "response.create", "model": "headrace-direct", "input": "Hi"}))
        assert json.loads(await sockets[-1].recv())["type"] == "response.created"
    finally:
        await asyncio.gather(*(socket.close() for socket in sockets))
    figures = f"{each:.1f} KiB each; TTFT p95 of 50 streams {alone * 1000:.0f} ms without them, {beside * 1000:.0f} ms with them"
    print(f"{count} idle WebSockets: {figures}")  # noqa: T201
    assert beside < 3 * alone


@pytest.fixture
def unhurried(spawn: Callable[..., Simulator]) -> Iterator[Stack]:
    """A stack whose model writes two words a second."""
    path = Path(tempfile.mkdtemp(prefix="hr-"))
    running = start(path / "data", spawn("--ttft-ms", "200", "--itl-ms", "500", "--tokens", "20"))
    yield running
    alive = end(running)
    shutil.rmtree(path, ignore_errors=True)
    assert alive == []


@pytest.mark.full
async def test_five_hundred_slow_streams_at_once_are_answered_whole(unhurried: Stack) -> None:
    limits, headers = httpx2.Limits(max_connections=600), {"authorization": f"Bearer {unhurried.key}"}
    gateway = unhurried.named("ServeReplica:headrace:gateway")
    before, waits = gateway.memory_info().rss, list[float]()

    async def one(http: httpx2.AsyncClient, number: int) -> str:
        await asyncio.sleep(number * 0.01)
        body = {"model": "headrace-direct", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
        started, text = time.monotonic(), ""
        async with http.stream("POST", "/v1/chat/completions", json=body) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    choices = json.loads(line[6:])["choices"]
                    piece = "".join(choice["delta"].get("content") or "" for choice in choices)
                    if piece and not text:
                        waits.append(time.monotonic() - started)
                    text += piece
        return text

    async with httpx2.AsyncClient(base_url=unhurried.url, headers=headers, timeout=60, limits=limits) as http:
        texts = await asyncio.gather(*(one(http, number) for number in range(500)))
    grown = (gateway.memory_info().rss - before) / (1 << 20)
    print(f"500 slow streams at once: TTFT p95 {p95(sorted(waits)) * 1000:.0f} ms (the model's 200), {grown:.0f} MiB more memory")  # noqa: T201
    assert {text.split()[-1] for text in texts} == {"w19"}


@pytest.mark.full
async def test_a_long_conversation_costs_no_more_than_a_short_one(stack: Stack, http: httpx2.AsyncClient) -> None:
    made = (await http.post("/v1/conversations", json={})).json()["id"]
    sizes: list[int] = []
    waits: list[float] = []
    for number in range(200):
        question = f"Turn {number}: please tell me what comes next in the story of the miller and his wheel, part {number * 7}."
        body = {"model": "headrace-direct", "input": question, "conversation": made, "stream": True, "max_output_tokens": 30}
        started, first = time.monotonic(), 0.0
        async with http.stream("POST", "/v1/responses", json=body) as response:
            async for line in response.aiter_lines():
                if not first and line.startswith("event: response.output_text.delta"):
                    first = time.monotonic() - started
                if line.startswith('data: {"type":"response.completed"') or line.startswith('data: {"type":"response.incomplete"'):
                    sizes.append(json.loads(line[6:])["response"]["usage"]["input_tokens"])
        waits.append(first * 1000)
    early, late = slice(20, 50), slice(150, 200)
    size, wait = statistics.median(sizes[early]), statistics.median(waits[early])
    later_size, later_wait = statistics.median(sizes[late]), statistics.median(waits[late])
    print(f"prompt tokens {size:.0f} at turns 20-50, {later_size:.0f} at 150-200; TTFT {wait:.0f} and {later_wait:.0f} ms")  # noqa: T201
    assert later_size <= 1.2 * size
    assert later_wait <= 1.2 * wait
