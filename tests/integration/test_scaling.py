"""Each stage scales on its own load, up and down again, while the others stay as they are; nothing that was begun is cut."""

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx2
import psutil
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from loadtest.replicas import count
from tests.fakes import until
from tests.integration.conftest import Shared, Stack, start
from tests.loadtest.conftest import Simulator

pytestmark = [pytest.mark.integration, pytest.mark.full, pytest.mark.timeout(400)]

STAGES = ("gateway", "embedder", "retriever", "router", "generator", "worker")
ITL_MS = 50
LONG = 300
"""Tokens of an answer that takes a quarter of a minute, longer than a replica that is not needed stays."""
WITHIN_S = 60
SETTINGS = {
    "GATEWAY__SCALING__TARGET_SOCKETS": "20",
    "GATEWAY__SCALING__TARGET_STREAMS": "80",
    "GATEWAY__SCALING__PAUSE_S": "5",
    "EMBEDDER__SCALING__TARGET_QUEUE_S": "1.5",
    "RETRIEVER__SCALING__TARGET_ONGOING": "16",
    "RETRIEVER__RECALL_BYTES": "0",
    "ROUTER__SCALING__TARGET_ONGOING": "0.5",
    "ROUTER__SCALING__UPSCALE_DELAY_S": "3",  # one call that Serve sees, such as the ping of a readiness check, weighs less long
    "GENERATOR__SCALING__TARGET_ONGOING": "24",
    "WORKER__SCALING__TARGET_BACKLOG": "8",
    "ADMISSION__MAX_RUNNING": "200",
}

Event = dict[str, Any]


@pytest.fixture
def scaled(shared: Shared, spawn: Callable[..., Simulator]) -> Stack:
    """A stack of one replica a stage, and two at most, which scales within seconds."""
    quick = {"MAX_REPLICAS": "2", "UPSCALE_DELAY_S": "1", "DOWNSCALE_DELAY_S": "4"}
    each = {f"{stage.upper()}__SCALING__{name}": value for stage in STAGES for name, value in quick.items()}
    settings = {f"HEADRACE_{name}": value for name, value in (each | SETTINGS).items()}
    return shared.run(
        "scaled", lambda folder: start(folder, spawn("--ttft-ms", "50", "--itl-ms", str(ITL_MS), "--tokens", "2000"), **settings)
    )


class Watch:
    """Looks at the replicas of every stage twice a second."""

    def __init__(self, stack: Stack):
        self._stack = stack
        self.looks: list[Counter[str]] = []
        self._began = time.monotonic()
        self.seconds: list[float] = []

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            self.looks.append(await asyncio.to_thread(lambda: count([_name(one) for one in self._stack.processes()])))
            self.seconds.append(time.monotonic() - self._began)
            await asyncio.sleep(0.5)

    async def until(self, stage: str, replicas: int) -> float:
        """Wait until a stage has so many; the seconds since this began."""
        await until(lambda: bool(self.looks) and self.looks[-1][stage] == replicas, within_s=WITHIN_S, every_s=0.2)
        return self.seconds[-1]


def replicas(stack: Stack, stage: str) -> list[psutil.Process]:
    """The processes of a stage."""
    return [process for process in stack.processes() if f"ServeReplica:headrace:{stage}" in _name(process)]


def _name(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


@contextlib.asynccontextmanager
async def alone(stack: Stack, stage: str) -> AsyncIterator[Watch]:
    """Watch while a stage is expected to scale up to two and down to one, and no other to change."""
    watch = Watch(stack)
    task = asyncio.create_task(watch.run())
    try:
        await until(lambda: bool(watch.looks) and watch.looks[-1] == dict.fromkeys(STAGES, 1), within_s=WITHIN_S)
        before = len(watch.looks)
        yield watch
        await watch.until(stage, 1)
        seen = watch.looks[before - 1 :]
        assert {name: max(look[name] for look in seen) for name in STAGES} == dict.fromkeys(STAGES, 1) | {stage: 2}
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@contextlib.asynccontextmanager
async def load(at_once: int, work: Callable[[], Awaitable[object]]) -> AsyncIterator[None]:
    """Do something again and again, so many times side by side, for as long as the context lasts."""

    async def again() -> None:
        while True:
            await work()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(again()) for _ in range(at_once)]
        yield
        for task in tasks:
            task.cancel()


@pytest.fixture
async def http(scaled: Stack) -> AsyncIterator[httpx2.AsyncClient]:
    limits = httpx2.Limits(max_connections=200)
    headers = {"authorization": f"Bearer {scaled.key}"}
    async with httpx2.AsyncClient(base_url=scaled.url, headers=headers, timeout=60, limits=limits) as client:
        yield client


async def said(answer: httpx2.Response) -> Any:
    """The body of an answer that must be one."""
    assert answer.status_code == 200, answer.text
    return answer.json()


def words(tokens: int) -> list[str]:
    """What the simulator says in so many."""
    return [f"w{number}" for number in range(tokens)]


async def stream(http: httpx2.AsyncClient, tokens: int) -> list[str]:
    """The words of a streamed answer, which must have come to its end."""
    text, ended = "", False
    body = {"model": "headrace-direct", "stream": True, "max_tokens": tokens, "messages": [{"role": "user", "content": "Hi"}]}
    async with http.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.status_code == 200, await response.aread()
        async for line in response.aiter_lines():
            ended = ended or line == "data: [DONE]"
            if line.startswith("data: {"):
                text += "".join(choice["delta"].get("content") or "" for choice in json.loads(line[6:])["choices"])
    assert ended
    return text.split()


async def upload(http: httpx2.AsyncClient, name: str, text: str) -> str:
    """The id of a new file."""
    files = {"file": (f"{name}.md", text.encode(), "text/markdown")}
    return (await said(await http.post("/v1/files", data={"purpose": "assistants"}, files=files)))["id"]


async def shelf(http: httpx2.AsyncClient, files: int) -> str:
    """A vector store to which so many files have been given, which are still to be ingested."""
    store = (await said(await http.post("/v1/vector_stores", json={"name": "scaling"})))["id"]
    ids = [
        await upload(http, f"about-{number}", f"# Pump {number}\n\nPump {number} lifts {number} litres a second.")
        for number in range(files)
    ]
    await said(await http.post(f"/v1/vector_stores/{store}/file_batches", json={"file_ids": ids}))
    return store


async def ingested(http: httpx2.AsyncClient, store: str) -> None:
    """Wait until all files of a store can be searched."""

    async def left() -> int:
        return (await said(await http.get(f"/v1/vector_stores/{store}")))["file_counts"]["in_progress"]

    await until(left, equals=0, within_s=WITHIN_S, every_s=0.5)


def told(stage: str, up_s: float, down_s: float) -> None:
    """Print what docs/figures.md tells."""
    print(f"{stage}: 1 -> 2 within {up_s:.1f} s of its load, -> 1 within {down_s:.1f} s of its end")  # noqa: T201


async def test_embeddings_scale_the_embedder(scaled: Stack, http: httpx2.AsyncClient) -> None:
    chance = random.Random(1)

    async def embed() -> None:
        texts = [" ".join(chance.choices(["wheel", "water", "mill", "race"], k=40)) for _ in range(64)]
        await said(await http.post("/v1/embeddings", json={"model": "headrace-embed", "input": texts}))

    async with alone(scaled, "embedder") as watch:
        began_s = watch.seconds[-1]
        async with load(8, embed):
            up_s = await watch.until("embedder", 2) - began_s
        ended_s = watch.seconds[-1]
        told("embedder", up_s, await watch.until("embedder", 1) - ended_s)


async def test_uploads_scale_the_worker(scaled: Stack, http: httpx2.AsyncClient) -> None:
    async with alone(scaled, "worker") as watch:
        began_s = watch.seconds[-1]
        store = await shelf(http, 300)
        up_s = await watch.until("worker", 2) - began_s
        await ingested(http, store)
        ended_s = watch.seconds[-1]
        told("worker", up_s, await watch.until("worker", 1) - ended_s)


async def test_searches_scale_the_retriever(scaled: Stack, http: httpx2.AsyncClient) -> None:
    store = await shelf(http, 5)
    await ingested(http, store)

    queries = [f"How much does pump {number} lift?" for number in range(4)]

    async def search() -> None:
        await said(await http.post(f"/v1/vector_stores/{store}/search", json={"query": queries}))

    async with alone(scaled, "retriever") as watch:
        began_s = watch.seconds[-1]
        async with load(16, search):
            up_s = await watch.until("retriever", 2) - began_s
        ended_s = watch.seconds[-1]
        told("retriever", up_s, await watch.until("retriever", 1) - ended_s)


async def test_grounded_questions_scale_the_router(scaled: Stack, http: httpx2.AsyncClient) -> None:
    store = await shelf(http, 5)
    await ingested(http, store)
    search = {"type": "file_search", "vector_store_ids": [store]}

    async def ask() -> None:
        body = {"model": "headrace", "input": "How much does pump 3 lift?", "max_output_tokens": 1, "tools": [search], "store": False}
        await said(await http.post("/v1/responses", json=body))

    async with alone(scaled, "router") as watch:
        began_s = watch.seconds[-1]
        async with load(24, ask):
            up_s = await watch.until("router", 2) - began_s
        ended_s = watch.seconds[-1]
        told("router", up_s, await watch.until("router", 1) - ended_s)


def calling(stack: Stack) -> int:
    """How many generators have called the model."""
    assert stack.backend
    port = stack.backend.port
    return sum(
        any(one.raddr and one.raddr.port == port for one in process.net_connections("tcp")) for process in replicas(stack, "generator")
    )


async def test_answers_scale_the_generator_and_none_is_cut_on_the_way_down(scaled: Stack, http: httpx2.AsyncClient) -> None:
    async with alone(scaled, "generator") as watch:
        began_s = watch.seconds[-1]
        async with load(30, lambda: stream(http, LONG // 3)):
            up_s = await watch.until("generator", 2) - began_s
            await until(lambda: asyncio.to_thread(calling, scaled), equals=2, within_s=WITHIN_S, every_s=0.2)
            longer = [asyncio.create_task(stream(http, 2 * LONG)) for _ in range(8)]
            assert await asyncio.gather(*(stream(http, 5) for _ in range(8))) == [words(5)] * 8
        ended_s = watch.seconds[-1]
        assert await asyncio.gather(*longer) == [words(2 * LONG)] * len(longer)
        told("generator", up_s, await watch.until("generator", 1) - ended_s)


class Socket:
    """A client over a WebSocket that notes what comes, until it is closed."""

    def __init__(self, connection: ClientConnection):
        self.events: list[Event] = []
        self.closed = 0
        self._connection = connection

    @classmethod
    async def open(cls, stack: Stack) -> "Socket":
        """One that listens."""
        headers = {"authorization": f"Bearer {stack.key}"}
        return cls(await connect(stack.url.replace("http", "ws") + "/v1/responses", additional_headers=headers, proxy=None))

    async def ask(self, tokens: int) -> None:
        """Ask for an answer."""
        body = {"type": "response.create", "model": "headrace-direct", "input": "Hi", "max_output_tokens": tokens}
        await self._connection.send(json.dumps(body))

    async def listen(self) -> None:
        """Take events until the server closes."""
        try:
            async for message in self._connection:
                self.events.append(json.loads(message))
        except ConnectionClosed:
            pass
        self.closed = self._connection.close_code or 0

    async def leave(self) -> None:
        """Close it ourselves."""
        await self._connection.close()

    @property
    def text(self) -> list[str]:
        """The words of all answers so far."""
        return "".join(event["delta"] for event in self.events if event["type"] == "response.output_text.delta").split()

    @property
    def answered(self) -> bool:
        """Whether the last event of an answer has come."""
        return bool(self.events) and self.events[-1]["type"] in ("response.completed", "response.incomplete")


def carried(stack: Stack) -> list[int]:
    """How many connections each gateway has."""
    return [
        sum(30000 <= one.laddr.port <= 31000 and one.status == "ESTABLISHED" for one in process.net_connections("tcp"))
        for process in replicas(stack, "gateway")
    ]


async def test_idle_sockets_scale_the_gateway_and_a_socket_that_has_to_go_has_its_answer_first(
    scaled: Stack, http: httpx2.AsyncClient
) -> None:
    async with alone(scaled, "gateway") as watch, asyncio.TaskGroup() as group:
        began_s = watch.seconds[-1]

        async def opened(number: int) -> list[Socket]:
            sockets = [await Socket.open(scaled) for _ in range(number)]
            for one in sockets:
                group.create_task(one.listen())
            return sockets

        first = await opened(30)
        up_s = await watch.until("gateway", 2) - began_s
        late: list[Socket] = []

        async def spread() -> bool:
            late.extend(await opened(1))
            return min(await asyncio.to_thread(carried, scaled)) >= 6

        await until(spread, within_s=WITHIN_S, every_s=0.3)
        kept = first[:6] + late[-6:]
        asked = kept[::2]
        for one in {*first, *late} - {*kept}:
            await one.leave()
        ended_s = watch.seconds[-1]
        streams = [group.create_task(stream(http, LONG)) for _ in range(6)]
        for one in asked:
            await one.ask(LONG)
        down_s = await watch.until("gateway", 1) - ended_s
        assert [await task for task in streams] == [words(LONG)] * len(streams)
        await until(lambda: all(one.answered for one in asked), within_s=WITHIN_S)
        assert [one.text for one in asked] == [words(LONG)] * len(asked)
        gone = [one for one in kept if one.closed]
        assert {one.closed for one in gone} == {1012}
        assert 0 < len(gone) < len(kept)
        (again,) = await opened(1)
        await again.ask(5)
        await until(lambda: again.answered, within_s=WITHIN_S)
        for one in {*kept, again} - {*gone}:
            await one.leave()
        told("gateway", up_s, down_s)
