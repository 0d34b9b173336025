"""What the edge answers in the application's stead, in OpenAI's error envelope."""

import json
from dataclasses import dataclass
from http import HTTPStatus

HEADER_BYTES = 8192
"""Headers of a request, all together."""


@dataclass(frozen=True)
class Refusal:
    """What the edge says in the application's stead."""

    name: str
    status: int
    type: str
    code: str
    message: str
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def body(self) -> str:
        """The envelope."""
        return json.dumps({"error": {"message": self.message, "type": self.type, "param": None, "code": self.code}})

    @property
    def raw(self) -> str:
        """The whole HTTP response, for the errors HAProxy makes itself. Of a header it cannot read it speaks in its own words still."""
        fixed = (("content-type", "application/json"), ("content-length", str(len(self.body))), ("connection", "close"))
        headers = "".join(f"{name}: {value}\r\n" for name, value in (*fixed, *self.headers))
        return f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}\r\n{headers}\r\n{self.body}"


_AGAIN = (("retry-after", "2"), ("retry-after-ms", "2000"))
_NEVER = (("x-should-retry", "false"),)
_INVALID = "invalid_request_error"
REFUSALS = (
    Refusal("malformed", 400, _INVALID, "invalid_request", "The request is not valid HTTP."),
    Refusal("unknown", 404, _INVALID, "unknown_url", "This URL is not implemented by headrace."),
    Refusal("late", 408, _INVALID, "request_timeout", "The request took too long to arrive.", _NEVER),
    Refusal("large", 413, _INVALID, "request_too_large", "The body is over its bound."),
    Refusal("long", 414, _INVALID, "request_too_large", "The URL is over its bound."),
    Refusal("often", 429, "rate_limit_error", "rate_limit_exceeded", "This address asks too often.", (("retry-after", "10"),)),
    Refusal("headers", 431, _INVALID, "request_too_large", f"The headers are over {HEADER_BYTES} bytes, or too many."),
    Refusal("broken", 500, "server_error", "server_error", "The edge failed to answer."),
    Refusal("interrupted", 502, "server_error", "server_error", "The stage that answered went away."),
    Refusal("away", 503, "server_error", "server_overloaded", "headrace is starting or over its load; try again.", _AGAIN),
    Refusal("deadline", 504, "server_error", "deadline_exceeded", "The answer took longer than the request allows.", _NEVER),
)
