"""Default deny: every route says which scope it takes, or stands on the short list below; an application with another is not built."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute, Route, WebSocketRoute

from deployments.gateway.context import Holding

PUBLIC = "public"
PUBLIC_ROUTES = {("GET", "/health"), ("GET", "/health/ready"), ("GET", "/openapi.json")}
"""Answered to anybody."""

SELF_GUARDED = {
    ("GET", "/files/{file_id}"): "files:read",  # the browser session's cookie stands for the key; without one, a page asks for it
    ("POST", "/files/{file_id}"): "files:read",
    ("WEBSOCKET", "/v1/responses"): "chat",  # checked in the handshake
}
"""Routes that take another credential than the bearer key, or take it another way, and the scope each asks for."""


class Unguarded(Exception):
    """A route has no rule."""


@dataclass(frozen=True)
class Rule:
    """Who may call a route: a scope, or PUBLIC."""

    method: str
    path: str
    scope: str


def rules(routes: Sequence[BaseRoute]) -> list[Rule]:
    """The rule of every route; raises Unguarded."""
    return [rule for route in _flat(routes) for rule in _rules(route)]


def _flat(routes: Sequence[BaseRoute]) -> Iterator[BaseRoute]:
    for route in routes:
        included: Any = getattr(route, "original_router", None)
        if included is None:
            yield route
        else:
            yield from _flat(included.routes)


def _rules(route: BaseRoute) -> Iterator[Rule]:
    if isinstance(route, WebSocketRoute):
        yield _rule("WEBSOCKET", route.path, set())
    elif isinstance(route, APIRoute):
        for method in sorted(route.methods or ()):
            yield _rule(method, route.path, set(_scopes(route.dependant)))
    elif isinstance(route, Route) and ("GET", route.path) in PUBLIC_ROUTES:
        yield _rule("GET", route.path, set())
    else:
        raise Unguarded(f"{route!r} is no route that a rule can be read from")


def _rule(method: str, path: str, scopes: set[str]) -> Rule:
    if (method, path) in PUBLIC_ROUTES:
        scopes = scopes | {PUBLIC}
    if named := SELF_GUARDED.get((method, path)):
        scopes = scopes | {named}
    if len(scopes) != 1:
        raise Unguarded(f"{method} {path} has {'several rules' if scopes else 'no rule'}: give it one scope")
    return Rule(method, path, scopes.pop())


def _scopes(dependant: Dependant) -> Iterator[str]:
    for needed in dependant.dependencies:
        if isinstance(needed.call, Holding):
            yield needed.call.scope
        yield from _scopes(needed)
