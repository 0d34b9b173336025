"""A steady open-loop load of streamed answers, some over each transport, by clients that resume as docs/transports.md says."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import cycle
from typing import Any
from uuid import uuid4

import httpx2
import orjson
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from loadtest.chaos.answer import Answer, Attempt, Kind

PATIENCE_S = 60.0
"""A client gives up an answer that has no end after so long; it is lost then."""

PAUSE_S, LONGEST_PAUSE_S = 0.1, 4.0
"""Before a client that lost its connection tries again: twice as long each time nothing came, and up to half of it less, at random.
Clients that try ten times a second keep a stack of two cores from starting."""

CONNECTION_S = 25.0
"""A connection is given up after so long, which is several answers' time; where nothing comes, HTTP clients go after 15 s."""

MIX = (Kind.RESPONSE, Kind.SOCKET, Kind.RESPONSE, Kind.CHAT)

BROKEN = (httpx2.HTTPError, WebSocketException, OSError, EOFError)
"""What a connection that breaks raises."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is asked for."""

    rate_s: float = 8.0
    """Answers begun a second, whatever becomes of the others."""
    model: str = "headrace-direct"
    words: int = 50
    """Of every answer, as the simulator writes them."""
    mix: Sequence[Kind] = MIX


STEADY = Plan()
"""The load that most faults strike."""


class Load:
    """Clients of one service."""

    def __init__(self, url: str, key: str, http: httpx2.AsyncClient, plan: Plan) -> None:
        """`url` is the OpenAI base URL; `http` must keep no connection, so that each answer has its own."""
        self._url, self._key, self._http, self._plan = url, key, http, plan
        self._tasks: set[asyncio.Task[None]] = set()
        self._errors: list[BaseException] = []
        self.answers: list[Answer] = []

    @property
    def attempts(self) -> list[Attempt]:
        """All connections that asked for a new answer."""
        return [attempt for answer in self.answers for attempt in answer.attempts]

    async def run(self) -> None:
        """Begin answers at the plan's rate until cancelled; those begun go on."""
        start, kinds = time.monotonic(), cycle(self._plan.mix)
        for number, kind in enumerate(kinds):
            await asyncio.sleep(max(start + number / self._plan.rate_s - time.monotonic(), 0.0))
            self.ask(kind)

    def ask(self, kind: Kind) -> Answer:
        """Begin one answer; it is in `answers`, and its client works on it until it has an end."""
        answer = Answer(kind, self._plan.words, time.monotonic())
        self.answers.append(answer)
        task = asyncio.create_task(self._until_settled(answer))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return answer

    def abandon(self) -> None:
        """Have every client give up."""
        for task in self._tasks:
            task.cancel()

    async def drain(self) -> None:
        """Wait until every client is through; raises what a client itself did wrong."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        for error in self._errors:
            raise error

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._errors.append(error)

    async def _until_settled(self, answer: Answer) -> None:
        key, pause = uuid4().hex, PAUSE_S
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                while not answer.settled:
                    read = answer.events
                    await self._connected(answer, key)
                    if answer.kind is Kind.CHAT:
                        break
                    pause = PAUSE_S if answer.events > read else min(2 * pause, LONGEST_PAUSE_S)
                    if not answer.settled:
                        await asyncio.sleep(pause * random.uniform(0.5, 1))
        answer.ended = answer.ended or time.monotonic()

    async def _connected(self, answer: Answer, key: str) -> None:
        """Use one connection as long as it goes."""
        sent, new = time.monotonic(), answer.id is None
        answer.connections += 1
        try:
            async with asyncio.timeout(CONNECTION_S):
                match answer.kind:
                    case Kind.CHAT:
                        await self._chat(answer)
                    case Kind.RESPONSE:
                        await self._response(answer, key)
                    case Kind.SOCKET:
                        await self._socket(answer)
        except (*BROKEN, TimeoutError):
            pass
        finally:
            if new:
                good = answer.first is not None
                ended = answer.first if answer.first is not None else time.monotonic()
                answer.attempts.append(Attempt(sent, ended, good))

    async def _chat(self, answer: Answer) -> None:
        body = {"model": self._plan.model, "stream": True, "messages": [{"role": "user", "content": "How does a mill work?"}]}
        async with self._http.stream("POST", f"{self._url}/chat/completions", json=body) as response:
            await self._read(answer, response)

    async def _response(self, answer: Answer, key: str) -> None:
        if answer.id is not None:
            behind = f"&starting_after={answer.events - 1}" if answer.events else ""
            stream = self._http.stream("GET", f"{self._url}/responses/{answer.id}?stream=true{behind}")
        else:
            headers = {"idempotency-key": key, "x-headrace-on-disconnect": "continue"}
            stream = self._http.stream("POST", f"{self._url}/responses", json=self._question() | {"stream": True}, headers=headers)
        async with stream as response:
            await self._read(answer, response)

    async def _read(self, answer: Answer, response: httpx2.Response) -> None:
        if response.status_code != 200:
            answer.refuse(response.status_code, "retry-after" in response.headers, time.monotonic())
            return
        async for line in response.aiter_lines():
            if not line.startswith("data: "):
                continue
            data = line[6:]
            if answer.kind is Kind.CHAT:
                answer.chunk(None if data == "[DONE]" else orjson.loads(data), time.monotonic())
            else:
                answer.event(orjson.loads(data), time.monotonic())
            if answer.settled:
                return
        answer.hushed += 1

    async def _socket(self, answer: Answer) -> None:
        async with socket(self._url, self._key) as connection:
            if answer.id is None:
                frame: dict[str, Any] = {"type": "response.create", **self._question(), "headrace": {"on_disconnect": "continue"}}
            else:
                frame = {"type": "headrace:response.attach", "response_id": answer.id, "starting_after": answer.events - 1}
            await connection.send(orjson.dumps(frame).decode())
            while not answer.settled:
                answer.event(orjson.loads(await connection.recv()), time.monotonic())

    def _question(self) -> dict[str, Any]:
        return {"model": self._plan.model, "input": "How does a mill work?"}


def socket(url: str, key: str, **options: Any) -> connect:
    """A WebSocket of the service at an OpenAI base URL, to be entered or awaited."""
    given: dict[str, Any] = {"proxy": None, "compression": None, "open_timeout": 10, "close_timeout": 1, "ping_interval": None, **options}
    return connect(f"{url.replace('http', 'ws', 1)}/responses", additional_headers={"authorization": f"Bearer {key}"}, **given)


def client(key: str, **options: Any) -> httpx2.AsyncClient:
    """An HTTP client that opens a connection for each request: one that broke is nobody else's."""
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
    timeout = httpx2.Timeout(15.0, connect=5.0)
    return httpx2.AsyncClient(headers={"authorization": f"Bearer {key}"}, limits=limits, timeout=timeout, trust_env=False, **options)


@asynccontextmanager
async def loaded(load: Load) -> AsyncIterator[Load]:
    """Have a load on; at the end nothing more is asked, and every client is waited for."""
    pace = asyncio.create_task(load.run())
    try:
        yield load
    finally:
        pace.cancel()
        with suppress(asyncio.CancelledError):
            await pace
        await load.drain()
