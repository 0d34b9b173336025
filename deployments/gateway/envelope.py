"""Every error that leaves the gateway has the shape of OpenAI's; this is the one place that makes it."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from deployments.core.errors import HeadraceError, InvalidRequest, Late, NoSuchUrl, StreamInterrupted, TooLarge
from deployments.core.sql import away
from deployments.core.types import Failed

_logger = logging.getLogger("headrace.gateway")

_BY_CODE = {"missing": "missing_required_parameter", "json_invalid": "invalid_json"}


def ended() -> StreamInterrupted:
    """What a reader is told of an answer that was cancelled while it was read: what it has is not the whole."""
    return StreamInterrupted("the answer was ended before it was complete")


class Broken(HeadraceError):
    """A response that broke off elsewhere, as its log tells it."""

    def __init__(self, failed: Failed):
        super().__init__(failed.message, param=failed.param, code=failed.code, retry_after_s=failed.retry_after_s)
        self.status, self.type, self.retry = failed.status, failed.kind, failed.retry  # type: ignore[misc]


def body(error: HeadraceError) -> dict[str, Any]:
    """The envelope of an error."""
    return {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.wire_code}}


def event(error: HeadraceError) -> bytes:
    """The event of an error in a stream of completions, which has no header to say when to try again."""
    shown = body(error)
    if error.retry_after_s is not None:
        shown["error"]["retry_after_ms"] = milliseconds(error.retry_after_s)
    return b"data: " + msgspec.json.encode(shown) + b"\n\n"


def milliseconds(seconds: float) -> int:
    """A time to wait, in milliseconds; 0 would count as none."""
    return max(1, round(seconds * 1000))


def answer(error: HeadraceError) -> Response:
    """The HTTP response of an error, with what tells a client whether and when to try again."""
    headers: dict[str, str] = {}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, round(error.retry_after_s)))
        headers["retry-after-ms"] = str(milliseconds(error.retry_after_s))
    if error.retry is not None:
        headers["x-should-retry"] = str(error.retry).lower()
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    response = Response(msgspec.json.encode(body(error)), error.status, headers, "application/json")
    response.raw_headers += error.headers
    return response


async def on_headrace_error(request: Request, error: Exception) -> Response:
    """Errors of ours say what they are."""
    if not isinstance(error, HeadraceError):
        raise error
    return answer(error)


async def on_invalid(request: Request, error: Exception) -> Response:
    """A body or parameter of the wrong shape: 400, naming the first field that is wrong."""
    if not isinstance(error, RequestValidationError):
        raise error
    first = _telling(error.errors())
    why = first["ctx"]["error"] if first["type"] == "json_invalid" else first["msg"]
    return answer(invalid(first["type"], first["loc"][1:], why))


def _telling(errors: Sequence[Any]) -> Mapping[str, Any]:
    """The first error that says something: not that a list, which may stand there, is no text, which may stand there, too."""
    return next((error for error in errors if error["type"] != "string_type" or not isinstance(error["input"], list)), errors[0])


def invalid(kind: str, location: tuple[int | str, ...], message: str) -> InvalidRequest:
    """The error of a field of the wrong shape, as pydantic tells it."""
    param = _path(location) if kind != "json_invalid" else None
    message = message.removeprefix("Value error, ")
    return InvalidRequest(f"{param}: {message}" if param else message, param=param, code=_BY_CODE.get(kind, "invalid_value"))


async def on_http(request: Request, error: Exception) -> Response:
    """What the framework refuses: an unknown path or method is a 404 that says so."""
    if not isinstance(error, HTTPException):
        raise error
    if error.status_code in (404, 405):
        return answer(NoSuchUrl(f"{request.method} {request.url.path} is not implemented by headrace"))
    if error.status_code == 413:
        refused = answer(TooLarge("the body is larger than it may be"))
        refused.headers.update(error.headers or {})
        return refused
    if error.status_code == 408:
        return answer(Late("the body took too long to arrive"))
    return answer(InvalidRequest(str(error.detail)))


async def on_database(request: Request, error: Exception) -> Response:
    """Errors of the database: 503 where it is away, so that the client tries again; else as any other."""
    if told := away(error):
        _logger.warning("the database is not available on %s: %s", request.url.path, type(error).__name__)
        return answer(told)
    return await on_anything(request, error)


async def on_anything(request: Request, error: Exception) -> Response:
    """What nobody expected: 500 without a word about the inside."""
    _logger.exception("unexpected error on %s", request.url.path, exc_info=error)
    return answer(HeadraceError("headrace failed to answer; the log has the reason"))


def _path(location: tuple[int | str, ...]) -> str | None:
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part.islower() and part.isidentifier():  # pydantic adds the names of union members, which are no fields
            path += f".{part}" if path else part
    return path or None
