"""Clients that ask at a steady rate while something happens to the service, and judge every answer by what they hold in the end."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, cast
from uuid import uuid4

import httpx2
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, WebSocketException

LAST = ("response.completed", "response.incomplete", "response.failed")
LONGEST_S = 60
"""A client gives up on an answer after so long."""

MODELS = ("headrace-direct", "headrace-direct", "headrace")
"""What they ask in turn: the model alone, and one question in three with a search before it."""


class Truncated(AssertionError):
    """An answer that ended as if it were whole, and is not."""


@dataclass
class Diary:
    """What became of what was asked: ends by name, and what is worth a look."""

    ends: Counter[str] = field(default_factory=Counter)
    lost: list[float] = field(default_factory=list)
    """When requests were begun that were not taken."""
    oddities: Counter[str] = field(default_factory=Counter)
    closings: Counter[int] = field(default_factory=Counter)
    """Close codes of WebSockets that were not closed by their client."""

    def note(self, end: str, detail: str = "") -> None:
        """Note an end."""
        self.ends[end] += 1
        if detail:
            self.wonder(f"{end}: {detail}")

    def wonder(self, what: str) -> None:
        """Note what is worth a look."""
        self.oddities[what[:160]] += 1

    def recovery(self, since: float) -> float:
        """Seconds from a moment to the last beginning of a request that was not taken."""
        return max((moment - since for moment in self.lost), default=0.0)

    def __str__(self) -> str:
        return f"{dict(self.ends)}, sockets closed with {dict(self.closings)}, {dict(self.oddities)}"


@dataclass
class Visitors:
    """Asks the service at `url`, whose model says `words`, `rate_per_s` times a second over HTTP and all the time over `sockets`."""

    url: str
    key: str
    words: list[str]
    rate_per_s: float = 10
    sockets: int = 3
    diary: Diary = field(default_factory=Diary)

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[Diary]:
        """Ask until the context is left; then wait for every answer to end."""
        over = asyncio.Event()
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
        headers = {"authorization": f"Bearer {self.key}"}
        async with httpx2.AsyncClient(base_url=self.url, headers=headers, timeout=30, limits=limits) as http:
            asking = asyncio.create_task(self._ask(http, over))
            talking = [asyncio.create_task(self._talk(over)) for _ in range(self.sockets)]
            try:
                yield self.diary
            finally:
                over.set()
                await asyncio.gather(asking, *talking)

    async def _ask(self, http: httpx2.AsyncClient, over: asyncio.Event) -> None:
        kinds: list[Callable[[httpx2.AsyncClient, int], Awaitable[None]]] = [self._chat, self._chat, self._respond, self._whole]
        number, begun = 0, time.monotonic()
        async with asyncio.TaskGroup() as group:
            while not over.is_set():
                group.create_task(self._timed(kinds[number % len(kinds)](http, number)))
                number += 1
                with suppress(TimeoutError):
                    await asyncio.wait_for(over.wait(), max(0.0, begun + number / self.rate_per_s - time.monotonic()))

    async def _timed(self, answer: Awaitable[None]) -> None:
        try:
            await asyncio.wait_for(answer, LONGEST_S)
        except TimeoutError:
            self.diary.note("unfinished")
        except Truncated as error:
            self.diary.note("truncated", str(error))

    async def _chat(self, http: httpx2.AsyncClient, number: int) -> None:
        """A streamed chat completion: whole, ended by an error that says so, or cut off visibly."""
        text, done, begun = "", False, time.monotonic()
        try:
            async with http.stream("POST", "/v1/chat/completions", json=_chat(number, stream=True)) as response:
                if response.status_code != 200:
                    await response.aread()
                    self._refused(response, begun)
                    return
                async for line in response.aiter_lines():
                    done = done or line == "data: [DONE]"
                    if not line.startswith("data: {"):
                        continue
                    chunk = json.loads(line[6:])
                    if "error" in chunk:
                        self.diary.note("chat ended by a typed error", chunk["error"]["code"])
                        return
                    text += "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])
        except httpx2.HTTPError as error:
            if not text:
                self.diary.lost.append(begun)
            self.diary.note("chat cut", repr(error))
            return
        self._judge("chat", text, done)

    async def _whole(self, http: httpx2.AsyncClient, number: int) -> None:
        """A chat completion in one body."""
        begun = time.monotonic()
        try:
            response = await http.post("/v1/chat/completions", json=_chat(number))
        except httpx2.HTTPError as error:
            self.diary.lost.append(begun)
            self.diary.note("body cut", f"{error!r} after {time.monotonic() - begun:.0f} s")
            return
        if response.status_code == 200:
            self._judge("body", response.json()["choices"][0]["message"]["content"], True)
        else:
            self._refused(response, begun)

    async def _respond(self, http: httpx2.AsyncClient, number: int) -> None:
        """A streamed response that outlives its connection: asked again with its key, or followed behind its last event."""
        events: list[dict[str, Any]] = []
        headers = {"x-headrace-on-disconnect": "continue", "idempotency-key": str(uuid4())}
        body = {"model": MODELS[number % 3], "input": f"Hello {number}", "stream": True}
        breaks = 0
        while not _ended(events):
            if events:
                path = f"/v1/responses/{events[0]['response']['id']}?stream=true&starting_after={events[-1]['sequence_number']}"
                asking = http.stream("GET", path)
            else:
                asking = http.stream("POST", "/v1/responses", json=body, headers=headers)
            try:
                async with asking as response:
                    if response.status_code == 200:
                        async for line in response.aiter_lines():
                            if line.startswith("data: {"):
                                _take(events, json.loads(line[6:]))
                    else:
                        self.diary.wonder(f"response: {response.status_code} {(await response.aread()).decode()}")
            except (httpx2.HTTPError, Interrupted) as error:
                self.diary.wonder(f"response: {error!r}")
            if not _ended(events):
                breaks += 1
                await asyncio.sleep(0.2)
        self._settle("response", events, breaks)

    async def _talk(self, over: asyncio.Event) -> None:
        """Ask one question after another over a WebSocket that is opened again when it closes."""
        events: list[dict[str, Any]] = []
        breaks = 0
        headers = {"authorization": f"Bearer {self.key}"}
        begun = time.monotonic()
        while not over.is_set() or events:
            try:
                async with connect(self.url.replace("http", "ws") + "/v1/responses", additional_headers=headers, proxy=None) as socket:
                    while not over.is_set() or events:
                        if not events:
                            begun = time.monotonic()
                        await socket.send(json.dumps(_frame(events)))
                        while not _ended(events):
                            async with asyncio.timeout(20):
                                _take(events, json.loads(await socket.recv()))
                        self._settle("socket", events, breaks)
                        events, breaks = [], 0
            except ConnectionClosed as error:
                self.diary.closings[error.rcvd.code if error.rcvd else 1006] += 1
            except (WebSocketException, OSError, TimeoutError, Interrupted) as error:
                self.diary.wonder(f"socket: {error!r}")
            else:
                return
            breaks += 1
            if events and time.monotonic() - begun > LONGEST_S:
                self.diary.note("unfinished", "over a socket")
                events = []
            await asyncio.sleep(0.2)

    def _refused(self, response: httpx2.Response, begun: float) -> None:
        self.diary.lost.append(begun)
        self.diary.note("refused", f"{response.status_code} {response.text} after {time.monotonic() - begun:.0f} s")

    def _judge(self, kind: str, text: str, done: bool) -> None:
        if not done:
            self.diary.note(f"{kind} cut", f"without an end after {len(text.split())} words")
        elif text.split() == self.words:
            self.diary.note(f"{kind} whole")
        else:
            raise Truncated(f"{kind}: {len(text.split())} words")

    def _settle(self, kind: str, events: list[dict[str, Any]], breaks: int) -> None:
        """Every event was read once and in order, and they make the whole answer, or it has failed and says why."""
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        text = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
        if events[-1]["type"] != "response.completed":
            self.diary.note(f"{kind} failed", json.dumps(events[-1]["response"].get("error")))
        elif text.split() != self.words:
            raise Truncated(f"{kind}: {len(text.split())} words")
        else:
            self.diary.note(f"{kind} resumed" if breaks else f"{kind} whole")


class Interrupted(Exception):
    """An error event: the transport ended, the response may go on."""


def _chat(number: int, *, stream: bool = False) -> dict[str, Any]:
    return {"model": MODELS[number % 3], "stream": stream, "messages": [{"role": "user", "content": f"Hello {number}"}]}


def _frame(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Asks, or goes on behind the last event."""
    if events:
        return {
            "type": "headrace:response.attach",
            "response_id": events[0]["response"]["id"],
            "starting_after": events[-1]["sequence_number"],
        }
    return {"type": "response.create", "model": "headrace-direct", "input": "Hello", "headrace": {"on_disconnect": "continue"}}


def _take(events: list[dict[str, Any]], event: dict[str, Any]) -> None:
    if event["type"] == "error":
        raise Interrupted(json.dumps(event)[:150])
    events.append(event)


def _ended(events: list[dict[str, Any]]) -> bool:
    return bool(events) and cast(str, events[-1]["type"]) in LAST
