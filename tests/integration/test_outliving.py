"""Responses that outlive their connections, on the whole stack with two gateways and two workers, while parts of it are killed."""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx2
import psutil
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from tests.integration.conftest import WORDS, Stack

pytestmark = [pytest.mark.integration, pytest.mark.timeout(3000)]

LAST = ("response.completed", "response.incomplete", "response.failed")
LONGEST_S = 60
CALM_S = 11
"""A Valkey that dies younger is started again only after a pause, which grows."""

Event = dict[str, Any]


class Reader:
    """Reads one response over whatever transport, and goes on behind its last event when a connection ends."""

    def __init__(self, stack: Stack, http: httpx2.AsyncClient, response_id: str):
        self.events: list[Event] = []
        self._stack, self._http, self._id = stack, http, response_id

    @property
    def after(self) -> int:
        """The number of the last event read."""
        return self.events[-1]["sequence_number"] if self.events else -1

    @property
    def ended(self) -> bool:
        """Whether the last event has been read."""
        return bool(self.events) and self.events[-1]["type"] in LAST

    async def read(self, ways: "list[Callable[[int], Awaitable[None]]]", drop: Callable[[], int]) -> list[Event]:
        """Read to the end, each time over one of the ways, and no more events than `drop` says."""
        until = time.monotonic() + LONGEST_S
        while not self.ended:
            assert time.monotonic() < until, f"no end within {LONGEST_S} s, behind event {self.after} of {self._id}"
            try:
                await random.choice(ways)(drop())
            except (httpx2.HTTPError, WebSocketException, OSError, TimeoutError):
                await asyncio.sleep(0.05)
        return self.events

    async def stream(self, most: int) -> None:
        """Over server-sent events."""
        behind = f"&starting_after={self.after}" if self.events else ""
        async with self._http.stream("GET", f"/v1/responses/{self._id}?stream=true{behind}", timeout=20) as response:
            if response.status_code != 200:
                raise OSError(response.status_code)
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    self._take(json.loads(line[6:]))
                    if not (most := most - 1):
                        return

    async def socket(self, most: int) -> None:
        """Over a WebSocket."""
        headers = {"authorization": f"Bearer {self._stack.key}"}
        async with connect(self._stack.url.replace("http", "ws") + "/v1/responses", additional_headers=headers, proxy=None) as socket:
            frame = {"type": "headrace:response.attach", "response_id": self._id, "starting_after": self.after}
            await socket.send(json.dumps(frame))
            while most and not self.ended:
                async with asyncio.timeout(20):
                    self._take(json.loads(await socket.recv()))
                most -= 1

    async def poll(self, most: int) -> None:
        """By asking for the events."""
        answer = await self._http.get(f"/v1/responses/{self._id}/events", params={"after": self.after, "limit": most}, timeout=20)
        if answer.status_code != 200:
            raise OSError(answer.status_code)
        for event in answer.json()["data"]:
            self._take(event)
        await asyncio.sleep(0.02)

    def _take(self, event: Event) -> None:
        if event["type"] == "error":
            raise OSError(event)
        self.events.append(event)


def checked(events: list[Event]) -> str:
    """The text of a whole response; every event is there, once, in order."""
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    text = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    final = events[-1]["response"]
    if final["output"]:
        assert final["output"][0]["content"][0]["text"] == text
    return text


@pytest.fixture
async def http(pair: Stack) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=pair.url, headers={"authorization": f"Bearer {pair.key}"}, timeout=20) as client:
        yield client


async def begin(http: httpx2.AsyncClient) -> str:
    """A background response; what is refused for a moment is asked again."""
    while True:
        try:
            answer = await http.post("/v1/responses", json={"model": "headrace-direct", "input": "Hi", "background": True})
            if answer.status_code == 200:
                return answer.json()["id"]
            assert answer.status_code in (500, 503), answer.text
        except httpx2.HTTPError:
            pass
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("count", [20, pytest.param(500, marks=pytest.mark.full)])
async def test_a_reader_that_drops_and_resumes_anywhere_reads_everything_once(pair: Stack, http: httpx2.AsyncClient, count: int) -> None:
    chance = random.Random(11)

    async def one() -> None:
        reader = Reader(pair, http, await begin(http))
        events = await reader.read([reader.stream, reader.socket, reader.poll], lambda: chance.randint(1, 30))
        assert checked(events).split() == WORDS
        assert events[-1]["type"] == "response.completed"

    for start_ in range(0, count, 10):
        await asyncio.gather(*(one() for _ in range(min(10, count - start_))))


async def rounds(pair: Stack, http: httpx2.AsyncClient, part: str, count: int, at_once: int = 1) -> dict[str, int]:
    """How responses ended in whose midst a part was killed, so many times."""
    chance, ends = random.Random(5), dict[str, int]()
    for _ in range(count):
        pair.until(lambda: all(state["ok"] for state in _ready(pair).values()), "every part", 90)
        readers = [Reader(pair, http, await begin(http)) for _ in range(at_once)]
        reading = [asyncio.create_task(reader.read([reader.stream], lambda: 1 << 30)) for reader in readers]
        await asyncio.sleep(chance.uniform(0.1, 1.0))
        victims = [process for process in pair.processes() if _is(process, part)]
        chance.choice(victims).kill()
        for events in await asyncio.gather(*reading):
            text, kind = checked(events), events[-1]["type"]
            ends[kind] = ends.get(kind, 0) + 1
            if kind == "response.completed":
                assert text.split() == WORDS
            else:
                assert WORDS[: len(text.split())] == text.split()
                assert events[-1]["response"]["error"]["code"]
    return ends


def _is(process: psutil.Process, part: str) -> bool:
    try:
        return any(part in word for word in process.cmdline())
    except psutil.Error:
        return False


def _ready(pair: Stack) -> dict[str, Any]:
    with pair.http() as http:
        return http.get("/health/ready").json()["parts"]


@pytest.mark.parametrize("count", [1, pytest.param(20, marks=pytest.mark.full)])
@pytest.mark.parametrize("part", ["ServeReplica:headrace:gateway", "ServeReplica:headrace:worker"])
async def test_a_background_response_survives_a_killed_gateway_and_a_killed_worker(
    pair: Stack, http: httpx2.AsyncClient, part: str, count: int
) -> None:
    ends = await rounds(pair, http, part, count)
    print(f"{part} killed {count} times: {ends}")  # noqa: T201
    assert ends == {"response.completed": count}


@pytest.mark.parametrize("count", [1, pytest.param(20, marks=pytest.mark.full)])
async def test_a_background_response_goes_on_when_its_generator_is_killed(pair: Stack, http: httpx2.AsyncClient, count: int) -> None:
    ends = await rounds(pair, http, "ServeReplica:headrace:generator", count)
    print(f"generator killed {count} times: {ends}")  # noqa: T201
    assert ends.get("response.completed", 0) >= 0.9 * count


@pytest.mark.parametrize("count", [1, pytest.param(20, marks=pytest.mark.full)])
async def test_nothing_is_lost_when_valkey_is_killed_and_wiped(pair: Stack, http: httpx2.AsyncClient, count: int) -> None:
    ends = await rounds(pair, http, "valkey.conf", count, at_once=10)
    print(f"valkey killed {count} times under 10 background responses each: {ends}")  # noqa: T201
    assert ends == {"response.completed": 10 * count}


@pytest.mark.full
@pytest.mark.parametrize("count", [20])
async def test_chat_goes_on_when_valkey_is_killed_and_wiped(pair: Stack, http: httpx2.AsyncClient, count: int) -> None:
    chance, errors = random.Random(9), list[str]()

    async def chat(number: int) -> None:
        await asyncio.sleep(number * 0.02)
        body = {"model": "headrace-direct", "stream": True, "messages": [{"role": "user", "content": f"Hi {number}"}]}
        text = ""
        async with http.stream("POST", "/v1/chat/completions", json=body) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    chunk = json.loads(line[6:])
                    if response.status_code != 200 or "error" in chunk:
                        errors.append(line)
                        return
                    text += "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])
        if text.split() != WORDS:
            errors.append(text)

    for _ in range(count):
        pair.until(lambda: all(state["ok"] for state in _ready(pair).values()), "every part", 90)
        pair.until(lambda: time.time() - pair.named("valkey.conf").create_time() > CALM_S, "a Valkey that is started again at once", 90)
        chatting = [asyncio.create_task(chat(number)) for number in range(50)]
        await asyncio.sleep(chance.uniform(0.3, 1.5))
        pair.named("valkey.conf").kill()
        await asyncio.gather(*chatting)
    print(f"valkey killed {count} times under 50 chats each: {len(errors)} errors of {50 * count} {errors[:2]}")  # noqa: T201
    assert len(errors) <= 0.001 * 50 * count
