"""A bare app as a target: its Serve flags are the product's, its paths and ports are its own."""

import secrets
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import sample

from loadtest.bench.processes import launch, stop
from loadtest.bench.targets import Case, Endpoint

RESERVED = range(20_000, 29_000)
"""Below the ephemeral ports, of which Ray's own processes take dozens while they start."""

START_S = 120.0
"""Ray and Serve take about ten seconds on two idle cores."""


def free_ports(count: int) -> list[int]:
    """Return ports nobody listens on right now, and that the system hands to nobody by itself."""
    found: list[int] = []
    for port in sample(RESERVED, len(RESERVED)):
        if len(found) == count:
            break
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            found.append(port)
    return found


def flags(folder: Path) -> dict[str, str]:
    """Return the environment of a bare app; Ray reads it at import."""
    haproxy = folder / "haproxy"
    metrics, stats, fallback, fallback_grpc = (str(port) for port in free_ports(4))
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(haproxy / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(haproxy / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(haproxy),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(haproxy / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": metrics,
        "RAY_SERVE_HAPROXY_STATS_PORT": stats,
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": fallback,
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": fallback_grpc,
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "1",
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "45",
        "RAY_SERVE_LOG_TO_STDERR": "0",
        "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1000",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0.01",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
    }


@dataclass(frozen=True)
class Bare:
    """A two-stage Serve app whose child is `raw` or `parsed`."""

    name: str
    child: str

    @property
    def cases(self) -> tuple[Case, ...]:
        """One: the app has one way to answer."""
        return (Case(self.name, "sim"),)

    @asynccontextmanager
    async def running(self, upstream: str) -> AsyncIterator[Endpoint]:
        """Run the app in a cluster of its own, and leave neither processes nor files."""
        folder = Path(tempfile.mkdtemp(prefix="hb-"))
        (port,) = free_ports(1)
        module = [sys.executable, "-m", "loadtest.bench.baselines", self.child]
        command = [*module, "--upstream", upstream, "--port", str(port), "--temp", str(folder / "ray")]
        process = await launch(command, flags(folder), folder)
        try:
            await process.line("ready", START_S)
            yield Endpoint(f"http://127.0.0.1:{port}/v1", "none", process.pid)
        finally:
            await stop(process, signal.SIGTERM, port)
            shutil.rmtree(folder, ignore_errors=True)
