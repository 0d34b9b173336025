"""What the endpoints work with, and how each gets hold of it and of its caller."""

from dataclasses import dataclass
from typing import Annotated, Protocol, cast

from fastapi import Depends, FastAPI, Request

from deployments.core.config import Settings
from deployments.core.errors import Forbidden, Unauthenticated
from deployments.core.follow import Hub
from deployments.core.keys import Keys
from deployments.core.log import Outbox, Writer
from deployments.core.ports import Embeds, Retrieves
from deployments.core.store import Store
from deployments.core.types import Principal, Turn

SESSION_COOKIE = "headrace_session"


class Answers(Protocol):
    """The flow: what happens to a turn."""

    async def answer(self, turn: Turn, writer: Writer, default_store: str | None) -> None:
        """Write the whole response of a turn to its log, however it ends; raises nothing but CancelledError."""
        ...


@dataclass(frozen=True)
class Context:
    """Everything an endpoint may use."""

    settings: Settings
    store: Store
    keys: Keys
    hub: Hub
    outbox: Outbox
    flow: Answers
    embeds: Embeds
    retrieves: Retrieves


class App(FastAPI):
    """The application with its context, typed."""

    context: Context


def _context(request: Request) -> Context:
    return cast(App, request.app).context


async def _caller(request: Request) -> Principal:
    """The principal of the bearer key; raises Unauthenticated."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise Unauthenticated("no API key was sent; send it as 'Authorization: Bearer hr_…'")
    return await _context(request).keys.verify(key.strip())


async def _visitor(request: Request) -> Principal:
    """The principal of the browser session; raises Unauthenticated."""
    return await _context(request).keys.resume_session(request.cookies.get(SESSION_COOKIE, ""))


def scope(name: str) -> object:
    """A dependency: the caller, who must hold that scope."""

    async def check(caller: "Caller") -> Principal:
        if name not in caller.scopes:
            raise Forbidden(f"the API key lacks the scope '{name}'")
        return caller

    return Depends(check)


Parts = Annotated[Context, Depends(_context)]
Caller = Annotated[Principal, Depends(_caller)]
Visitor = Annotated[Principal, Depends(_visitor)]
Asker = Annotated[Principal, scope("chat")]
Reader = Annotated[Principal, scope("files:read")]
Writes = Annotated[Principal, scope("files:write")]
