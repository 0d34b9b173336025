"""Everything that can go wrong, in one tree; one place maps it to the OpenAI error envelope.

HeadraceError           500 server_error: the root; never raised itself
├── InvalidRequest      400 invalid_request_error: the caller must change the request
│   ├── ContextTooLong  400 context_length_exceeded: the prompt does not fit the model
│   ├── Unsupported     400 unsupported_parameter: a parameter, tool or value headrace does not have
│   ├── KeyReused       422 idempotency_key_reused: the key belongs to another request
│   ├── InFlight        409 idempotency_key_in_flight: the first request with the key is not answered yet; try again
│   ├── TooLarge        413 request_too_large: the body is over its bound
│   └── Late            408 request_timeout: the body did not arrive in time
├── Unauthenticated     401 invalid_api_key: no key, or one that is not valid
├── Forbidden           403 insufficient_scope: the key lacks the scope
│   └── TenantSuspended 403 tenant_suspended: an administrator has stopped the tenant
├── Conflict            409 already_exists: an object of that id is there; sending it again will not help
├── NotFound            404 not_found: no such object for this tenant
│   ├── NoSuchModel     404 model_not_found
│   └── NoSuchUrl       404 unknown_url
├── RateLimited         429 rate_limit_exceeded: the caller's own limit
├── Overloaded          503 server_overloaded: our load; try again
│   ├── Unreachable     503 backend_unreachable: no connection to a model backend; it has done nothing
│   └── Throttled       503 backend_throttled: a model backend wants to be left alone for a while
├── DeadlineExceeded    504 deadline_exceeded: the work took too long; do not try again at once
├── BackendFailed       502→500 backend_error: the model backend refused or broke
├── InvalidOutput       500 invalid_structured_output: the model's answer does not fit the schema that was asked for
└── StreamInterrupted   500 stream_interrupted: an answer broke off after it had begun
"""

from typing import ClassVar


class HeadraceError(Exception):
    """An error the caller may see; `message` is for people and holds no content of other tenants."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str] = "server_error"
    retry: ClassVar[bool | None] = None
    """True or False is sent as x-should-retry; None leaves it to the status."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None, retry_after_s: float | None = None):
        super().__init__(message)
        self.message = message
        self.param = param
        self.wire_code = code or self.code
        self.retry_after_s = retry_after_s
        self.headers: list[tuple[bytes, bytes]] = []
        """What goes with the error over HTTP besides; it does not travel between stages."""

    def __reduce__(self) -> tuple[object, ...]:
        """Survive the pickling of Serve handles with every field."""
        return (_restore, (type(self), self.message, self.param, self.wire_code, self.retry_after_s))


def _restore(kind: type[HeadraceError], message: str, param: str | None, code: str, retry_after_s: float | None) -> HeadraceError:
    return kind(message, param=param, code=code, retry_after_s=retry_after_s)


def _restore_taken(message: str, read: int, written: int) -> "InvalidOutput":
    return InvalidOutput(message).took(read, written)


class InvalidRequest(HeadraceError):
    """The request is wrong in itself; sending it again will not help."""

    status, type, code = 400, "invalid_request_error", "invalid_request"


class ContextTooLong(InvalidRequest):
    """Prompt and answer together do not fit the model's context."""

    code = "context_length_exceeded"


class Unsupported(InvalidRequest):
    """A parameter, tool or value that headrace does not have."""

    code = "unsupported_parameter"


class KeyReused(InvalidRequest):
    """The idempotency key belongs to a request with another body."""

    status, code = 422, "idempotency_key_reused"


class InFlight(InvalidRequest):
    """The first request with that idempotency key is still being answered; its reply can be had later."""

    status, code, retry = 409, "idempotency_key_in_flight", True


class TooLarge(InvalidRequest):
    """The body is over its bound."""

    status, code = 413, "request_too_large"


class Late(InvalidRequest):
    """The body did not arrive in time."""

    status, code, retry = 408, "request_timeout", False


class Unauthenticated(HeadraceError):
    """No key was sent, or it is not valid."""

    status, type, code = 401, "invalid_request_error", "invalid_api_key"


class Forbidden(HeadraceError):
    """The key is valid but lacks the scope."""

    status, type, code = 403, "permission_error", "insufficient_scope"


class TenantSuspended(Forbidden):
    """The key is valid, but an administrator has suspended its tenant."""

    code = "tenant_suspended"


class Conflict(HeadraceError):
    """An object of that id is there already."""

    status, type, code, retry = 409, "invalid_request_error", "already_exists", False


class NotFound(HeadraceError):
    """No such object; the same answer whether it never was or belongs to another tenant."""

    status, type, code = 404, "invalid_request_error", "not_found"


class NoSuchModel(NotFound):
    """The caller may use no model of that name."""

    code = "model_not_found"


class NoSuchUrl(NotFound):
    """No such path, or not with that method."""

    code = "unknown_url"


class RateLimited(HeadraceError):
    """The caller's own limit; `retry_after_s` says when it may pass."""

    status, type, code = 429, "rate_limit_error", "rate_limit_exceeded"


class Overloaded(HeadraceError):
    """Our load; the same request will pass later."""

    status, type, code = 503, "server_error", "server_overloaded"


class Unreachable(Overloaded):
    """There is no connection to a model backend, so it has done nothing."""

    code = "backend_unreachable"


class Throttled(Overloaded):
    """A model backend wants to be left alone for `retry_after_s`."""

    code = "backend_throttled"


class DeadlineExceeded(HeadraceError):
    """The work took longer than the request allows; trying again at once would add to the load."""

    status, type, code, retry = 504, "server_error", "deadline_exceeded", False


class BackendFailed(HeadraceError):
    """The model backend refused, broke or answered with something that is not an answer."""

    code = "backend_error"


class InvalidOutput(HeadraceError):
    """The model's answer does not fit the schema that was asked for; the same request may well end so again.

    Where none of it was shown, `read` and `written` are the tokens that it took nevertheless.
    """

    code, retry = "invalid_structured_output", False
    read = written = 0

    def took(self, read: int, written: int) -> "InvalidOutput":
        """The same with its tokens."""
        self.read, self.written = read, written
        return self

    def __reduce__(self) -> tuple[object, ...]:
        """See HeadraceError."""
        return (_restore_taken, (self.message, self.read, self.written))


class StreamInterrupted(HeadraceError):
    """The answer broke off after it had begun."""

    code = "stream_interrupted"
