"""The flow with tools of headrace's, an obedient model behind it, and a record of what the tools really did."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import httpx2
import msgspec
from redis.asyncio import Redis
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from deployments.core.config import Log, Settings
from deployments.core.fetch import Fetcher
from deployments.core.follow import Hub
from deployments.core.keys import Keys
from deployments.core.outbox import Outbox
from deployments.core.run import Keep, Open, Run, forget
from deployments.core.store import Store
from deployments.core.tool_settings import HttpTool, Tools
from deployments.core.tools import OWN, Approval, Awaits, Effect, Ran, Selection, Toolbox
from deployments.core.types import Chunk, Delta, Failed, Finished, LogRef, Message, Passage, Principal, Query, Sampling, Text, Turn
from deployments.generator.chain import Chain
from deployments.generator.relay import Relays
from pipeline.citations import Verbatim
from pipeline.flow import Flow
from pipeline.tools.loop import Loop
from tests.fakes import SCOPES, Clock, Counting, FakeEmbeds, FakeRetrieves, FakeRoutes, Obedient, database

PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {"to": {"type": "string"}, "n": {"type": "integer"}},
    "additionalProperties": False,
}


def tool(name: str, effect: Effect = "read", scope: str = "tools:use", **fields: Any) -> HttpTool:
    """A tool that the recorder answers for."""
    fields = {"parameters": PARAMETERS, "scopes": (scope,)} | fields
    return HttpTool(name=name, description=f"The tool {name}.", effect=effect, url=f"https://tools.test/{name}", **fields)


TOOLS = Tools(http=(tool("look"), tool("save", "write"), tool("send", "egress"), tool("peek", scope="tools:secret"), tool("spare")))
ALLOWED = (Selection(OWN, ("look", "save", "send", "peek")),)


class Recorder(httpx2.AsyncBaseTransport):
    """Every tool at once: notes what it was called with, and answers with what it was told to."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.answers: dict[str, str] = {}
        self.at_once = self.most_at_once = 0

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        name = request.url.path.strip("/")
        self.calls.append((name, msgspec.json.decode(await request.aread() or b"null")))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        return httpx2.Response(200, content=self.answers.get(name, f"{name} did it").encode())


class Shelf(FakeRetrieves):
    """An index that finds the same document whatever is asked for."""

    document: str | None = None

    async def search(self, query: Query) -> tuple[Passage, ...]:
        if self.document is None:
            return ()
        chunk = Chunk(0, self.document, (), 0, len(self.document), len(self.document) // 4)
        return (Passage("file-1", "a.md", "A", chunk, 0.9, 0.9),)


@dataclass
class Workshop:
    """A flow with its tools, for one caller."""

    flow: Flow
    model: Obedient
    recorder: Recorder
    shelf: Shelf
    store: Store
    clock: Clock
    caller: Principal
    hub: Hub
    outbox: Outbox
    slot: Open = field(default_factory=Open)
    count: int = 0

    def turn(self, question: str, *before: Message, name: str = "", **fields: Any) -> Turn:
        """A question with the tools that are allowed."""
        self.count += 1
        fields = {"toolbox": Toolbox(choice="auto", allowed=ALLOWED)} | fields
        messages = (*before, Message("user", question))
        return Turn(name or f"resp_{self.count}", self.caller, "headrace", messages, Sampling(), int(self.clock()), 20, **fields)

    async def run(self, turn: Turn, keep: Keep = forget, written: Sequence[Delta] = ()) -> list[Delta]:
        """Every delta of a turn's response, those included that were written before by a process that died."""
        ref = LogRef(turn.id, turn.principal.tenant, (self.hub.channel,), record=False, written=tuple(written))
        self.slot = Counting()
        with self.hub.follow(turn.id) as follower, self.hub.tape(turn.id) as tape, self.outbox.writer(ref) as writer:
            tape.recall(written)
            follower.recall(list(written))
            answering = asyncio.create_task(self.flow.answer(turn, Run(writer, tape, self.store, keep, self.slot)))
            deltas: list[Delta] = []
            async with asyncio.timeout(20):
                while not deltas or not isinstance(deltas[-1], Finished | Failed):
                    deltas += await follower.read()
                await answering
        return deltas


@asynccontextmanager
async def workshop(valkey: Redis, folder: Path, tools: Tools = TOOLS, model: Obedient | None = None) -> AsyncIterator[Workshop]:
    """A workshop with a database of its own."""
    settings = Settings(log=Log(tick_ms=1), tools=tools)
    hub = Hub(valkey, settings.log)
    hub.start()
    await hub.ready(5)
    model, recorder, shelf, clock = model or Obedient(), Recorder(), Shelf(), Clock()
    generates = Relays(cast(Chain, model), Outbox(valkey, settings.log), lambda _: Verbatim())
    loop = Loop(tools, Fetcher(transport=recorder), settings.log.stall_s)
    flow = Flow(settings, FakeEmbeds(), shelf, FakeRoutes(), generates, loop=loop)
    try:
        async with database(folder, clock) as store:
            keys = Keys(store, b"pepper")
            await keys.add_tenant("ours", "ours")
            caller = await keys.verify((await keys.mint("ours", [*SCOPES, "tools:use"])).secret)
            yield Workshop(flow, model, recorder, shelf, store, clock, caller, hub, Outbox(valkey, settings.log, local=hub))
    finally:
        await hub.close()


class Crafted:
    """An MCP server that says of its tools what it is told to, and whose calls all give the same."""

    def __init__(self, *tools: dict[str, Any], gives: dict[str, Any] | None = None):
        self._replies: dict[str, Any] = {
            "initialize": {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "c", "version": "1"}},
            "tools/list": {"tools": [{"inputSchema": {"type": "object"}, **tool} for tool in tools]},
            "tools/call": gives or {"content": []},
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            request = Request(scope, receive)
            asked: dict[str, Any] = await request.json() if request.method == "POST" else {}
            await self._reply(request.method, asked)(scope, receive, send)

    def _reply(self, method: str, asked: dict[str, Any]) -> Response:
        if method != "POST" or "id" not in asked:
            return Response(status_code=202 if asked else 405)
        reply = self._replies.get(asked["method"])
        found = {"result": reply} if reply is not None else {"error": {"code": -32601, "message": "no such method"}}
        return JSONResponse({"jsonrpc": "2.0", "id": asked["id"], **found})


def ran(deltas: Sequence[Delta]) -> list[Ran]:
    return [delta for delta in deltas if isinstance(delta, Ran)]


def awaits(deltas: Sequence[Delta]) -> list[Awaits]:
    return [delta for delta in deltas if isinstance(delta, Awaits)]


def words(deltas: Sequence[Delta]) -> str:
    return "".join(delta.text for delta in deltas if isinstance(delta, Text))


def granting(asked: Awaits, origin: str, granted: bool = True) -> Approval:
    """The caller's answer to a request for approval."""
    return Approval(asked.id, asked.label, asked.name, asked.arguments, granted, origin)
