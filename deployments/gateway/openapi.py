"""The OpenAPI document: what FastAPI knows of the routes, and what only we know: who must be who, and what can go wrong."""

from collections.abc import Iterator
from typing import Any, cast

from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute, iter_route_contexts
from starlette.routing import BaseRoute

from deployments.gateway.context import DEADLINE_HEADER, Caller, Deadline, asks
from deployments.gateway.idempotency import ENDPOINTS
from deployments.gateway.shapes import STREAM, Answers, Refusal

TITLE, VERSION = "headrace", "1"

REFUSED: Answers = {"default": {"model": Refusal}}
"""What the application is told of its errors; the document names the statuses."""

_REFUSED = {"description": "Refused", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Refusal"}}}}
_DEADLINE = {
    "name": DEADLINE_HEADER,
    "in": "header",
    "required": False,
    "schema": {"type": "integer", "minimum": 1, "maximum": 999_999_999, "title": "Milliseconds the answer may take"},
}
_CONFLICTS = {("post", "/admin/tenants"), ("post", "/admin/canaries")}
"""Operations that may meet what is there already."""

_DONE = {"const": "[DONE]"}
_AGAIN = {name: {"schema": {"type": "integer"}} for name in ("retry-after", "retry-after-ms")}


def describe(routes: list[BaseRoute]) -> dict[str, Any]:
    """The document of some routes."""
    document = get_openapi(title=TITLE, version=VERSION, routes=routes)
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer", "bearerFormat": "hr_…"}}
    for path, method, route in _operations(routes):
        operation = document["paths"][path][method]
        keyed = asks(route.dependant, Caller)
        if keyed:
            operation["security"] = [{"key": []}]
        if asks(route.dependant, Deadline):
            operation.setdefault("parameters", []).append(_DEADLINE)
        operation["responses"] = _succeeds(operation["responses"]) | _refuses(operation, keyed, path, method)
    return document


def _operations(routes: list[BaseRoute]) -> Iterator[tuple[str, str, APIRoute]]:
    """Each operation with its path and its route."""
    for context in iter_route_contexts(routes):
        if isinstance(context.original_route, APIRoute) and context.original_route.include_in_schema:
            for method in context.original_route.methods or ():
                yield cast(str, context.path_format), method.lower(), context.original_route


def _succeeds(answers: dict[str, Any]) -> dict[str, Any]:
    """What a route says itself: a stream goes beside the whole answer."""
    kept: dict[str, Any] = {status: answer for status, answer in answers.items() if status not in (STREAM, "default")}
    if "200" in kept and "content" not in kept["200"]:
        del kept["200"]  # a page that redirects
    for answer in kept.values():
        whole = answer.get("content", {}).get("application/json", {})
        if "$ref" in whole.get("schema", ()):
            whole["schema"] = {"$ref": whole["schema"]["$ref"]}  # without what FastAPI adds of a route that returns a plain object
    if STREAM in answers:
        data = answers[STREAM]["content"]["application/json"]["schema"]
        encoded = {"type": "string", "contentMediaType": "application/json", "contentSchema": data}
        event = {"type": "object", "required": ["data"], "properties": {"event": {"type": "string"}, "data": {"anyOf": [_DONE, encoded]}}}
        kept["200"]["content"]["text/event-stream"] = {"itemSchema": event}
    return kept


def _refuses(operation: dict[str, Any], keyed: bool, path: str, method: str) -> dict[str, Any]:
    """The errors of an operation."""
    has_body = "requestBody" in operation
    names = any(parameter["in"] == "path" for parameter in operation.get("parameters", ()))
    statuses = ["400", *(["401", "403"] if keyed else []), *(["404"] if names or has_body else []), *(["413"] if has_body else [])]
    statuses += ["408"] if has_body else []
    statuses += ["409", "422"] if method == "post" and path in ENDPOINTS else ["409"] if (method, path) in _CONFLICTS else []
    statuses += ["429"] if keyed else []
    statuses += ["500", "503", *(["504"] if has_body and keyed else [])]
    said = operation["responses"]
    return {status: _REFUSED | ({"headers": _AGAIN} if status in ("429", "503") else {}) for status in statuses if status not in said}
