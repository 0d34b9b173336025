"""Small working stand-ins for what is slow, random or far away."""

import asyncio
import hashlib
import inspect
import json
import re
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import uvicorn
from httpx2 import ASGITransport, AsyncClient
from openai import AsyncOpenAI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route as Place
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from deployments.core.config import Settings
from deployments.core.filters import holds
from deployments.core.follow import Hub
from deployments.core.gate import Gate
from deployments.core.jobs import INGEST
from deployments.core.keys import Keys
from deployments.core.lease import Answer, Lease, Want
from deployments.core.limits import Policy
from deployments.core.outbox import Outbox
from deployments.core.refusals import Refusals
from deployments.core.run import Open, Run
from deployments.core.schema import migrate
from deployments.core.store import Store
from deployments.core.tokens import Tokens
from deployments.core.types import Chunk, Generation, Passage, Principal, Query, Route, Source, Turn, Usage, Vector, Vectors
from deployments.core.usage import Books
from deployments.core.valkey import connect
from deployments.core.vault import Vault
from deployments.gateway.app import build_app
from deployments.gateway.context import Context, Stages
from deployments.generator.sse import CallPiece, Piece
from deployments.worker.work import Means, Runner
from pipeline.jobs import Ingest

DIMENSIONS = 64
SCOPES = ["chat", "files:read", "files:write"]


class Clock:
    """A clock that only moves when it is told to."""

    def __init__(self, now: float = 1_800_000_000):
        self.now = now

    def __call__(self) -> float:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += seconds


class FakeEmbeds:
    """Bags of words, hashed: texts that share words are close, the same text is always the same vector."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    async def embed(self, texts: Sequence[str], caller: Principal | None = None) -> Vectors:
        self.calls.append(list(texts))
        return np.stack([self.vector(text) for text in texts]) if texts else np.zeros((0, DIMENSIONS), np.float32)

    @staticmethod
    def vector(text: str) -> Vector:
        vector = np.full(DIMENSIONS, 1e-6, np.float32)
        for word in re.findall(r"\w+", text.lower()):
            vector[int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest(), "big") % DIMENSIONS] += 1
        return vector / np.linalg.norm(vector)


class FakeRetrieves:
    """An index in memory: exact cosine, one dictionary a tenant."""

    def __init__(self, min_similarity: float = 0.2) -> None:
        self._min_similarity = min_similarity
        self.files: dict[tuple[str, str, str], list[tuple[Source, Chunk, Vector]]] = {}

    async def replace(self, principal: Principal, store_id: str, source: Source, chunks: Sequence[Chunk], vectors: Vectors) -> None:
        self.files.pop((principal.tenant, store_id, source.file_id), None)
        if chunks:
            rows = [(source, chunk, vector) for chunk, vector in zip(chunks, vectors, strict=True)]
            self.files[principal.tenant, store_id, source.file_id] = rows

    async def drop(self, principal: Principal, store_id: str) -> None:
        for key in [key for key in self.files if key[:2] == (principal.tenant, store_id)]:
            del self.files[key]

    async def search(self, query: Query) -> tuple[Passage, ...]:
        found = [
            Passage(
                source.file_id, source.filename, source.title, chunk, *[float(vector @ query.vector)] * 2, attributes, source.created_at
            )
            for (tenant, store_id, _), rows in self.files.items()
            if (tenant, store_id) == (query.principal.tenant, query.store_id)
            for source, chunk, vector in rows
            for attributes in [source.attributes | chunk.attributes]
            if query.filters is None or holds(query.filters, attributes)
        ]
        relevant = [passage for passage in found if passage.similarity >= self._min_similarity]
        return tuple(sorted(relevant, key=lambda passage: -passage.score)[: query.limit])


ROOT = bytes(32)
"""The root key of tests."""


@cache
def _migrated() -> bytes:
    """An empty database, made once."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "headrace.db"
        asyncio.run(migrate(f"sqlite+aiosqlite:///{file}"))
        return file.read_bytes()


@asynccontextmanager
async def database(folder: Path, clock: Callable[[], float] | None = None) -> AsyncIterator[Store]:
    """A migrated SQLite database in a folder."""
    file = folder / "headrace.db"
    if not file.exists():
        file.write_bytes(await asyncio.to_thread(_migrated))
    store = Store(f"sqlite+aiosqlite:///{file}", Vault(ROOT), clock or Clock())
    yield store
    await store.close()


async def tenant(store: Store, name: str) -> Principal:
    """A tenant of that name, with a key that may do everything."""
    keys = Keys(store, b"pepper")
    await keys.add_tenant(name, name)
    return await keys.verify((await keys.mint(name, SCOPES)).secret)


class FakeRoutes:
    """Retrieves whenever it can."""

    async def route(self, turn: Turn, vector: Vector) -> Route:
        return Route(True, 900, "a test")


ORDER = re.compile(r"CALL (\S+) (\{[^{}]*\})")
"""How anybody tells the obedient model to call a tool."""


class Obedient:
    """A model backend that makes every call it is told to make, whoever says so: each once, or again and again where it is `tireless`."""

    def __init__(self, tireless: bool = False):
        self.tireless = tireless
        self.asked: list[Generation] = []
        self.orders = 0

    async def stream(self, generation: Generation) -> AsyncGenerator[Piece]:
        self.asked.append(generation)
        texts = [message.content for message in generation.messages] + [tool.description or "" for tool in generation.toolbox.tools]
        told = dict.fromkeys(order for text in texts for order in ORDER.findall(text))
        made = {(call.name, call.arguments) for message in generation.messages for call in message.calls}
        orders = [order for order in told if self.tireless or order not in made]
        self.orders += len(orders)
        yield Piece(text="I obey." if orders else "Done.", chunks=1)
        names = [f"call_{len(self.asked)}_{place}" for place in range(len(orders))]
        yield Piece(calls=tuple(CallPiece(place, names[place], *order) for place, order in enumerate(orders)))
        yield Piece(reason="tool_calls" if orders else "stop", usage=Usage(7, 3), done=True)


class Silence:
    """A flow that answers nothing."""

    async def answer(self, turn: Turn, run: Run) -> None:
        raise NotImplementedError


class Idle:
    """A worker that need not be woken."""

    async def wake(self) -> None:
        pass


class OpenGate(Gate):
    """Lets everything in, without a Valkey."""

    def __init__(self, store: Store, settings: Settings):
        super().__init__(connect("unix:///nowhere"), settings, Keys(store, b"pepper").policy, Books(store))

    def start(self) -> None:
        pass

    async def close(self) -> None:
        pass

    @asynccontextmanager
    async def admit(self, principal: Principal, want: Want) -> AsyncIterator[Lease]:
        lease = Lease("lease_", principal, want, Policy(), asyncio.get_running_loop())
        lease.take(Answer("free", 0, "", (), (), 0))
        yield lease


def means(store: Store) -> Means:
    """What handlers work with that write no response log."""
    nowhere = connect("unix:///nowhere")
    return Means(store, Hub(nowhere, Settings().log), Outbox(nowhere, Settings().log), OpenGate(store, Settings()))


class Desk:
    """The HTTP application over a database and an index in memory, with clients that call it in this process."""

    def __init__(self, store: Store, settings: Settings):
        self.store, self.settings = store, settings
        self.keys = Keys(store, b"pepper", settings.gateway.key_cache_s, settings.gateway.session_ttl_s)
        self.embeds, self.retrieves = FakeEmbeds(), FakeRetrieves()
        nowhere = connect("unix:///nowhere")
        stages = Stages(self.embeds, self.retrieves, Idle())
        hub, outbox = Hub(nowhere, settings.log), Outbox(nowhere, settings.log)
        self.tokens, self.refusals = Tokens(store, self.keys, b"pepper", nowhere, settings.issuer), Refusals(store)
        gate = OpenGate(store, settings)
        context = Context(settings, store, self.keys, hub, outbox, Silence(), stages, gate, self.tokens, self.refusals)
        self.app = build_app(context)
        self._transport = ASGITransport(self.app, raise_app_exceptions=False)

    async def key(self, tenant: str, *scopes: str) -> str:
        """A key of a tenant, which is made if it is not there."""
        if not await self.keys.has_tenant(tenant):
            await self.keys.add_tenant(tenant, tenant)
        return (await self.keys.mint(tenant, list(scopes or SCOPES))).secret

    def http(self, key: str = "") -> AsyncClient:
        """A plain client, with a key or without."""
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return AsyncClient(transport=self._transport, base_url="http://headrace.test", headers=headers)

    def openai(self, key: str) -> AsyncOpenAI:
        """OpenAI's own client, which checks every shape it gets."""
        url = "http://headrace.test/v1"
        return AsyncOpenAI(base_url=url, api_key=key, http_client=self.http(), max_retries=0, _strict_response_validation=True)


class Served:
    """A desk with a worker behind it, on a port of its own, in a thread of its own; for clients that are not async."""

    url: str
    key: str
    desk: Desk

    def __init__(self, folder: Path):
        self._folder = folder
        self._up, self._end = threading.Event(), threading.Event()

    def run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        async with database(self._folder) as store:
            settings = Settings(data_dir=self._folder)
            self.desk = Desk(store, settings)
            store.clock = time.time
            self.key = await self.desk.key("acme")
            self.desk_store = (await store.of(await self.desk.keys.verify(self.key)).add_store("default")).id
            ingest = Ingest(settings, self.desk.embeds, self.desk.retrieves)
            runner = Runner(means(store), settings.worker.model_copy(update={"poll_s": 0.02}), {INGEST: ingest})
            server = uvicorn.Server(uvicorn.Config(self.desk.app, port=0, lifespan="off", ws="none", log_level="warning"))
            tasks = [asyncio.create_task(runner.run()), asyncio.create_task(server.serve())]
            await until(lambda: server.started)
            self.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
            self._up.set()
            await until(self._end.is_set, within_s=600)
            runner.stop()
            server.should_exit = True
            await asyncio.gather(*tasks)

    @contextmanager
    def running(self) -> Iterator["Served"]:
        thread = threading.Thread(target=self.run)
        thread.start()
        try:
            assert self._up.wait(30)
            yield self
        finally:
            self._end.set()
            thread.join()


class Narrator:
    """A tiny Responses API whose answers outlive their connections, over events and WebSockets: `w0 w1 w2 …`.

    `skips` is the number of an event that whoever comes back is never told.
    """

    def __init__(self, words: int = 20, itl_s: float = 0.01, skips: int | None = None):
        self._words, self._itl_s, self._skips = words, itl_s, skips
        self._begun: list[float] = []
        self.app = Starlette(
            routes=[
                Place("/v1/conversations", self._conversation, methods=["POST"]),
                Place("/v1/responses", self._create, methods=["POST"]),
                Place("/v1/responses/{name}", self._again, methods=["GET"]),
                WebSocketRoute("/v1/responses", self._socket),
            ]
        )

    @contextmanager
    def running(self) -> Iterator[str]:
        """Its URL."""
        server = uvicorn.Server(uvicorn.Config(self.app, port=0, lifespan="off", ws="websockets-sansio", log_level="warning"))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
        thread.start()
        deadline = time.monotonic() + 10
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()

    async def _events(self, name: int, after: int) -> AsyncIterator[bytes]:
        """The events of an answer behind one of them, each when it is due."""
        body = {"id": f"resp_{name}"}
        events = [{"type": "response.created", "response": body}]
        events += [{"type": "response.output_text.delta", "delta": f" w{word}" if word else "w0"} for word in range(self._words)]
        for number, event in enumerate([*events, {"type": "response.completed", "response": body}]):
            await asyncio.sleep(self._begun[name] + number * self._itl_s - time.monotonic())
            if number > after and not (after >= 0 and number == self._skips):
                yield json.dumps(event | {"sequence_number": number}).encode()

    def _begin(self) -> int:
        self._begun.append(time.monotonic())
        return len(self._begun) - 1

    async def _conversation(self, request: Request) -> Response:
        return JSONResponse({"id": "conv_0"})

    async def _create(self, request: Request) -> Response:
        return self._stream(self._begin(), -1)

    async def _again(self, request: Request) -> Response:
        return self._stream(int(request.path_params["name"].removeprefix("resp_")), int(request.query_params["starting_after"]))

    def _stream(self, name: int, after: int) -> Response:
        return StreamingResponse((b"data: %b\n\n" % event async for event in self._events(name, after)), media_type="text/event-stream")

    async def _socket(self, socket: WebSocket) -> None:
        await socket.accept()
        with suppress(WebSocketDisconnect):
            while True:
                frame = await socket.receive_json()
                back = frame["type"] == "headrace:response.attach"
                name = int(frame["response_id"].removeprefix("resp_")) if back else self._begin()
                async for event in self._events(name, frame["starting_after"] if back else -1):
                    await socket.send_text(event.decode())


async def until(observe: Callable[[], object], *, equals: object = True, within_s: float = 10, every_s: float = 0.005) -> None:
    """Wait until what is observed is as expected."""
    seen: object = None
    try:
        async with asyncio.timeout(within_s):
            while True:
                seen = observe()
                if inspect.isawaitable(seen):
                    seen = await seen
                if seen == equals:
                    return
                await asyncio.sleep(every_s)
    except TimeoutError:
        raise AssertionError(f"{seen!r} did not become {equals!r} within {within_s} s") from None


class Counting(Open):
    """A slot that is always there, and adds up what calls of the backend used."""

    used = Usage()

    def spent(self, usage: Usage) -> None:
        self.used += usage
