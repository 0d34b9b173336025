"""The HTTP application behind a real server and a real Valkey."""

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
from openai import AsyncOpenAI, DefaultAsyncHttpxClient
from pydantic import SecretStr
from redis.asyncio import Redis
from starlette.types import ASGIApp

from deployments.core.config import Gateway, Idempotency, Log, Settings, Worker
from deployments.core.errors import BackendFailed, HeadraceError
from deployments.core.follow import Hub
from deployments.core.gate import Gate
from deployments.core.jobs import RESPOND
from deployments.core.keys import Keys
from deployments.core.log import Writer
from deployments.core.outbox import Outbox
from deployments.core.refusals import Refusals
from deployments.core.run import Run
from deployments.core.tokens import Tokens
from deployments.core.types import Citation, Cited, Outcome, Route, Text, Turn, Usage
from deployments.core.usage import Books
from deployments.gateway.app import build_app
from deployments.gateway.context import Context, Stages
from deployments.gateway.frames import Bounded
from deployments.gateway.watch import Watch
from deployments.worker.work import Means, Runner
from pipeline.cache import Cached
from pipeline.compared import Compared
from pipeline.respond import Respond
from tests.fakes import SCOPES, FakeEmbeds, FakeRetrieves, database, until


@dataclass
class Script:
    """A flow that says what it is told, or says the question again, and notes what it was asked and whether it was ended early."""

    pieces: list[str | Citation] = field(default_factory=lambda: ["Hello ", "world."])
    pause_s: float = 0.0
    hesitates_s: float = 0.0
    error: HeadraceError | None = None
    echoes: bool = False
    fails: Callable[[Turn], bool] = lambda turn: False
    turns: list[Turn] = field(default_factory=list)
    ended_early: int = 0
    held: bool = False
    """While this is true nothing is said behind what was."""
    route: Route | None = None
    """Where turns are said to go that want to be told."""

    async def answer(self, turn: Turn, run: Run) -> None:
        self.turns.append(turn)
        writer = run.writer
        if not writer.written:
            writer.open()
        if self.route and turn.handling.shows_route:
            run.slot.routed(self.route)
        try:
            async with run.slot:
                await self._say(writer, [turn.question] if self.echoes else self.pieces)
            await writer.drain()
            error = self.error or (BackendFailed("broken") if self.fails(turn) else None)
            last = writer.failed(error) if error else writer.finished(Outcome(writer.next_seq, "stop", Usage(10, 2)))
            await run.keep((*writer.written, last))
            await asyncio.sleep(self.hesitates_s)
            writer.end(last)
        except asyncio.CancelledError:
            self.ended_early += 1
            raise

    async def _say(self, writer: Writer, pieces: Sequence[str | Citation]) -> None:
        """What is left to say behind what was said."""
        said = sum(isinstance(delta, Text | Cited) for delta in writer.written)
        for piece in pieces[said:]:
            writer.count(isinstance(piece, str))
            writer.text(piece) if isinstance(piece, str) else writer.cite(piece)
            if self.pause_s or self.held:
                await writer.drain()
            await asyncio.sleep(self.pause_s)
            await until(lambda: not self.held)


PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Nothing here speaks TLS: reading all the certificates of the world for each client would take a quarter of the tests' time."""


@dataclass
class House:
    """A running gateway: its address, a key that may do everything, and the flow behind it."""

    url: str
    key: str
    flow: Script
    context: Context
    clients: list[AsyncOpenAI] = field(default_factory=list)

    def openai(self, key: str | None = None) -> AsyncOpenAI:
        """OpenAI's own client, which checks every shape it gets."""
        client = AsyncOpenAI(
            base_url=f"{self.url}/v1",
            api_key=key or self.key,
            max_retries=0,
            http_client=DefaultAsyncHttpxClient(verify=PLAIN),
            _strict_response_validation=True,
        )
        self.clients.append(client)
        return client

    def http(self, key: str | None = "") -> httpx2.AsyncClient:
        """A plain client; the full key unless told otherwise, None for none."""
        headers = {} if key is None else {"authorization": f"Bearer {key or self.key}"}
        return httpx2.AsyncClient(base_url=self.url, headers=headers, verify=PLAIN)


def serving(context: Context) -> contextlib.AbstractAsyncContextManager[str]:
    """Serve our application on a free port of this machine."""
    return listening(build_app(context), log_level="warning", ws=Bounded)


@contextlib.asynccontextmanager
async def listening(app: ASGIApp, **options: Any) -> AsyncIterator[str]:
    """Serve any application on a free port of this machine: its URL."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, timeout_graceful_shutdown=2, **{"log_level": "error"} | options))
    task = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


def location(valkey: Redis) -> SecretStr:
    """The URL of the server that a client is connected to."""
    return SecretStr(f"unix://{valkey.connection_pool.connection_kwargs['path']}")


@pytest.fixture
async def house(valkey: Redis, tmp_path: Path) -> AsyncIterator[House]:
    settings = Settings(
        data_dir=tmp_path,
        valkey_url=location(valkey),
        gateway=Gateway(
            max_body_bytes=20_000,
            max_messages=5,
            max_tokens=100,
            max_images=2,
            max_image_bytes=1024,
            max_streams=3,
            max_sockets=3,
            max_socket_answers=2,
            keep_alive_s=0.2,
            commit_s=0.5,
            socket_life_s=8,
        ),
        log=Log(tick_ms=2),
        idempotency=Idempotency(lease_s=2.5, wait_s=5),
        worker=Worker(poll_s=0.05),
    )
    async with database(tmp_path, time.time) as store:
        keys = Keys(store, b"pepper")
        await keys.add_tenant("ours", "ours")
        key = await keys.mint("ours", SCOPES)
        flow = Script()
        compared = Compared(settings, flow)
        cached = Cached(settings, compared, FakeEmbeds())
        hub = Hub(valkey, settings.log)
        outbox = Outbox(valkey, settings.log, local=hub)
        gate = Gate(valkey, settings, keys.policy, Books(store))
        runner = Runner(Means(store, hub, outbox, gate), settings.worker, {RESPOND: Respond(settings, cached)})
        stages = Stages(FakeEmbeds(), FakeRetrieves(), Bell(runner))
        tokens = Tokens(store, keys, b"pepper", valkey, settings.issuer)
        context = Context(settings, store, keys, hub, outbox, cached, stages, gate, tokens, Refusals(store), Watch(every_s=0.05))
        async with serving(context) as url:
            working = asyncio.create_task(runner.run())
            house = House(url, key.secret, flow, context)
            yield house
            for client in house.clients:
                await client.close()
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            await cached.close()
            await compared.close()


@dataclass
class Bell:
    """Wakes a worker in this process."""

    runner: Runner

    async def wake(self) -> None:
        self.runner.wake()
