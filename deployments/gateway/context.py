"""What the endpoints work with, and how each gets hold of it and of its caller."""

import asyncio
import contextlib
import os
import socket
import time
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import ip_address
from typing import Annotated, Protocol, cast, get_args

from fastapi import Depends, FastAPI, Query, Request, WebSocket
from fastapi.dependencies.models import Dependant
from starlette.requests import HTTPConnection

from deployments.core.catalogue import Catalogue
from deployments.core.config import Settings
from deployments.core.errors import Forbidden, HeadraceError, InvalidRequest, TenantSuspended, Unauthenticated
from deployments.core.follow import Hub
from deployments.core.gate import Gate
from deployments.core.holdings import Holdings
from deployments.core.keys import Keys
from deployments.core.outbox import Outbox
from deployments.core.ports import Embeds, Retrieves
from deployments.core.recent import Recent
from deployments.core.refusals import Refusals
from deployments.core.run import Answers
from deployments.core.store import Store
from deployments.core.tokens import Tokens, is_token
from deployments.core.traces import Traces
from deployments.core.types import Principal
from deployments.gateway.board import Board
from deployments.gateway.lately import Lately
from deployments.gateway.picker import Picker
from deployments.gateway.watch import Proof, Watch

SESSION_COOKIE = "headrace_session"
_CALLER = "headrace.caller"
DEADLINE_HEADER = "x-headrace-deadline-ms"
_HINT = "x-stainless-read-timeout"

_WAKE_S = 0.2
"""No longer does a caller wait for a worker to hear of its work."""


class Pings(Protocol):
    """A stage, as far as readiness is concerned."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    async def ping(self) -> None:
        """Return once a replica has answered; raises HeadraceError."""
        ...


class Wakes(Protocol):
    """The worker, as far as those are concerned who have work for it."""

    async def wake(self) -> None:
        """Have it look for work now instead of at its next poll."""
        ...


@dataclass(frozen=True)
class Stages:
    """The near sides of the stages that endpoints talk to, and of all that must stand for a question to be answered."""

    embeds: Embeds
    retrieves: Retrieves
    works: Wakes
    all: tuple[Pings, ...] = ()


@dataclass(frozen=True)
class Context:
    """Everything an endpoint may use."""

    settings: Settings
    store: Store
    keys: Keys
    hub: Hub
    outbox: Outbox
    flow: Answers
    stages: Stages
    gate: Gate
    tokens: Tokens
    refusals: Refusals
    watch: Watch = field(default_factory=Watch)
    picker: Picker = field(default_factory=Picker)
    board: Board | None = None
    lately: Lately = field(default_factory=Lately)
    name: str = field(default_factory=lambda: f"{socket.gethostname()}:{os.getpid()}")
    """Which gateway this is."""
    sockets: set[WebSocket] = field(default_factory=set[WebSocket])
    default_stores: Recent[str, str] = field(default_factory=lambda: Recent(1.0, time.monotonic))

    @cached_property
    def catalogue(self) -> Catalogue:
        """The models, as this process last read them."""
        return Catalogue(self.settings)

    @cached_property
    def traces(self) -> Traces:
        """The turns that are kept to be looked at later."""
        return Traces(self.store, self.settings.telemetry)

    async def default_store(self, caller: Principal) -> str | None:
        """The vector store that plain questions of this caller search; None where its tenant has none."""
        if known := self.default_stores.get(caller.tenant):
            return known
        found = await self.store.of(caller).default_store()
        return self.default_stores.put(caller.tenant, found) if found else None

    def holdings(self, caller: Principal) -> Holdings:
        """What the caller holds, to be changed in SQL and index together."""
        return Holdings(self.store, self.stages.retrieves, caller)

    async def wake(self) -> None:
        """Have a worker look for what was just written down; it looks by itself, too."""
        with contextlib.suppress(HeadraceError, TimeoutError):
            async with asyncio.timeout(_WAKE_S):
                await self.stages.works.wake()


class App(FastAPI):
    """The application with its context, typed."""

    context: Context


async def _context(request: Request) -> Context:  # async, as FastAPI runs what is not in a thread
    return cast(App, request.app).context


async def _caller(request: Request) -> Principal:
    return request.scope.get(_CALLER) or await caller_of(request)


async def meet(request: Request) -> None:
    """Get to know the caller before anything of the body is read; raises Unauthenticated."""
    request.scope[_CALLER] = await caller_of(request)


async def caller_of(connection: HTTPConnection) -> Principal:
    """The principal of the bearer key or token; raises Unauthenticated or TenantSuspended."""
    return await identified(connection, bearer(connection))


def bearer(connection: HTTPConnection) -> str:
    """The key or token a caller sent; raises Unauthenticated."""
    scheme, _, secret = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise Unauthenticated("no API key was sent; send it as 'Authorization: Bearer hr_…'")
    return secret.strip()


async def identified(connection: HTTPConnection, secret: str) -> Principal:
    """Who a key or token speaks for; one that is refused is put on record. Raises Unauthenticated or TenantSuspended."""
    parts = cast(App, connection.app).context
    try:
        return await (parts.tokens.verify(secret) if is_token(secret) else parts.keys.verify(secret))
    except (Unauthenticated, TenantSuspended) as error:
        parts.refusals.note(f"refused.{error.wire_code}", parts.keys.grants.known(secret) or address(connection))
        raise


def address(connection: HTTPConnection) -> str:
    """Where a caller is, as the edge tells it; for the record only, as without an edge callers could tell us anything."""
    peer = connection.client.host if connection.client else ""
    told = connection.headers.get("x-forwarded-for", "").split(",")[0].strip()
    try:
        return str(ip_address(told or peer))
    except ValueError:
        return "unknown"


@dataclass(frozen=True)
class Holding:
    """A dependency: the caller, who must hold a scope."""

    scope: str

    async def __call__(self, caller: "Caller", parts: "Parts") -> Principal:
        """The caller; raises Forbidden."""
        return holding(parts, caller, self.scope)


def scope(name: str) -> object:
    """What a route depends on that asks for that scope."""
    return Depends(Holding(name))


def holding(parts: Context, caller: Principal, name: str) -> Principal:
    """The caller, who must hold that scope; one that does not is put on record. Raises Forbidden."""
    if name not in caller.scopes:
        parts.refusals.note("refused.insufficient_scope", caller.key_id, caller.tenant)
        raise Forbidden(f"the API key lacks the scope '{name}'")
    return caller


def standing(parts: Context, caller: Principal) -> Proof:
    """What shows that a caller, proved once, may still ask."""

    async def again() -> Principal:
        return holding(parts, await parts.tokens.still(caller), "chat")

    return Proof(caller, again)


Parts = Annotated[Context, Depends(_context)]


async def _deadline_s(request: Request) -> float:
    """How long an answer may take: what the caller gives it or will wait for, as OpenAI's clients tell, and never more than configured.

    The hint is in seconds, and ignored where it makes no sense. Raises InvalidRequest.
    """
    longest_s = cast(App, request.app).context.settings.gateway.deadline_s
    own, hint = request.headers.get(DEADLINE_HEADER), request.headers.get(_HINT, "")
    if own is not None:
        if not (own.isascii() and own.isdecimal() and 0 < len(own) < 10 and int(own)):
            raise InvalidRequest(f"{DEADLINE_HEADER} is a number of milliseconds", param=DEADLINE_HEADER, code="invalid_value")
        longest_s = min(longest_s, int(own) / 1000)
    return min(longest_s, float(hint)) if hint.isascii() and hint.isdecimal() and float(hint) else longest_s


Caller = Annotated[Principal, Depends(_caller)]
Deadline = Annotated[float, Depends(_deadline_s)]
"""Seconds that an answer may take."""
Asker = Annotated[Principal, scope("chat")]
Reader = Annotated[Principal, scope("files:read")]
Writes = Annotated[Principal, scope("files:write")]
Mints = Annotated[Principal, scope("tokens:mint")]
Admin = Annotated[Principal, scope("admin")]

AfterItem = Annotated[str, Query(max_length=80)]
PageSize = Annotated[int, Query(ge=1, le=100)]
"""Where a page of items begins, and how many it may hold."""


def asks(dependant: Dependant, whom: object) -> bool:
    """Whether a route depends on what an annotation such as `Caller` stands for, at any remove."""
    return dependant.call is get_args(whom)[1].dependency or any(asks(one, whom) for one in dependant.dependencies)
