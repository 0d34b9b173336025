"""Two nodes of the cluster that cluster.yaml describes, as two raylets on this machine, and what is asked of them."""

import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psutil
import yaml

from deployments.core.config import environment
from loadtest.bench.bare import free_ports
from pipeline.instance import MARK, members

ROOT = Path(__file__).parents[2]
START_S = 240


@dataclass
class Node:
    """One machine of the cluster: a home of its own, with what `ray up` copies there."""

    home: Path
    command: str
    environ: dict[str, str]
    raylet: psutil.Process | None = None

    def start(self) -> None:
        """Run its start command; raises AssertionError with what it says where it fails."""
        before = set(_raylets(self.environ[MARK]))
        done = subprocess.run(["/bin/bash", "-c", self.command], env=self.environ, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        (self.raylet,) = set(_raylets(self.environ[MARK])) - before

    def processes(self) -> list[psutil.Process]:
        """Its raylet and all that came of it: replicas, agents, haproxy."""
        return [self.raylet, *self.raylet.children(recursive=True)] if self.raylet and self.raylet.is_running() else []

    def kill(self) -> None:
        """The power goes."""
        doomed = self.processes()
        for process in doomed:
            process.suspend()  # nobody starts or reports anything meanwhile
        for process in doomed:
            process.kill()
        psutil.wait_procs(doomed, timeout=10)


@dataclass
class Nodes:
    """A head and a worker with the application of production.yaml; `settings` are HEADRACE_* variables of every node."""

    folder: Path
    settings: dict[str, str]
    port: int = 0
    config: dict[str, Any] = field(default_factory=dict)
    known: set[psutil.Process] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._mark = secrets.token_hex(8)
        ports = free_ports(12)
        self.port, self._gcs, self._dashboard, self._fallback = ports[:4]
        (self.folder / "ray-token").write_text(secrets.token_hex(32))
        commands = yaml.safe_load((ROOT / "cluster.yaml").read_text())
        self.head = self._node("head", commands["head_start_ray_commands"][-1], ports[4:8])
        self.worker = self._node("worker", commands["worker_start_ray_commands"][-1], ports[8:])

    @property
    def url(self) -> str:
        """Where clients reach the application."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def key(self) -> str:
        """The demo key."""
        return (self.folder / "data" / "demo.key").read_text().strip()

    def start(self) -> None:
        """Start both nodes."""
        self.head.start()
        self.worker.start()

    def deploy(self, config: dict[str, Any]) -> None:
        """`serve deploy` a config; returns when Serve has taken it."""
        self.config = config
        path = self.folder / "deployed.yaml"
        path.write_text(yaml.safe_dump(config))
        self.serve("deploy", str(path))

    def serve(self, *words: str) -> str:
        """A command of Serve's, run on the head; what it prints."""
        command = [str(Path(sys.executable).with_name("serve")), *words, "-a", f"http://127.0.0.1:{self._dashboard}"]
        done = subprocess.run(command, env=self.head.environ, cwd=ROOT, capture_output=True, text=True, timeout=90)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def status(self) -> dict[str, Any]:
        """What Serve says of the application and its replicas, asked as `serve status` asks."""
        token = (self.folder / "ray-token").read_text()
        headers = {"authorization": f"Bearer {token}"}
        asked = httpx2.get(f"http://127.0.0.1:{self._dashboard}/api/serve/applications/", headers=headers, timeout=30, trust_env=False)
        return asked.raise_for_status().json()["applications"]["headrace"]

    def running(self) -> dict[str, int]:
        """Running replicas by stage."""
        stages = self.status()["deployments"]
        return {name: sum(replica["state"] == "RUNNING" for replica in one["replicas"]) for name, one in stages.items()}

    def pids(self) -> set[int]:
        """Processes of the replicas that are wanted."""
        return {replica["pid"] for one in self.status()["deployments"].values() for replica in one["replicas"] if replica["pid"]}

    def ready(self) -> bool:
        """Whether the application answers through the ingress."""
        try:
            asked = httpx2.get(f"{self.url}/health/ready", timeout=5, trust_env=False)
        except httpx2.HTTPError:
            return False
        return asked.status_code == 200 and all(part["ok"] for part in asked.json()["parts"].values())

    def end(self) -> list[psutil.Process]:
        """End everything, haproxy too, which outlives its raylet; what is still alive."""
        for _ in range(2):  # a process may have been forked while we looked
            self.note()
            for process in self.known:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        return psutil.wait_procs(self.known, timeout=10)[1]

    def note(self) -> None:
        """Remember every process of ours: an orphan that has renamed itself is not found any more."""
        self.known |= {*members(self._mark), *self.head.processes(), *self.worker.processes()}

    def _node(self, name: str, command: str, ports: list[int]) -> Node:
        """A home and a start command in which only that differs which two machines would not share."""
        home = self.folder / name
        (home / ".ray").mkdir(parents=True)
        (home / "headrace").symlink_to(ROOT)
        (home / ".ray" / "auth_token").symlink_to(self.folder / "ray-token")
        metrics, stats, agent, agent_metrics = ports
        variables = {
            **self.settings,
            "HEADRACE_DATA_DIR": str(self.folder / "data"),
            "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(self._fallback),
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{home}/haproxy/haproxy.cfg",
            "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{home}/haproxy/a.sock",
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{home}/haproxy/m.sock",
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": f"{home}/haproxy",
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{home}/haproxy/state",
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
            "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
            "RAY_SERVE_HAPROXY_NBTHREAD": "1",
            "RAY_worker_niceness": "0",  # 15 otherwise: whatever else runs on this machine would go first
            "RAY_SERVE_HAPROXY_MAXCONN": "2000",
        }
        (home / "headrace.env").write_text("".join(f"export {name}='{value}'\n" for name, value in variables.items()))
        shared = f"--node-ip-address=127.0.0.1 --num-cpus=4 --object-store-memory=100000000 --temp-dir={home}/ray"
        shared += f" --dashboard-agent-listen-port={agent} --metrics-export-port={agent_metrics}"
        replaced = {
            "--port=6379": f"--port={self._gcs} --dashboard-port={self._dashboard} {shared}",
            " --autoscaling-config=~/ray_bootstrap_config.yaml": "",
            "--address=$RAY_HEAD_IP:6379": f"--address=$RAY_HEAD_IP:{self._gcs} {shared}",
        }
        for old, new in replaced.items():
            command = command.replace(old, new)
        environ = environment(
            HOME=str(home),
            RAY_HEAD_IP="127.0.0.1",
            RAY_AUTH_MODE="token",
            PYTHONPATH=str(ROOT),
            RAY_TMPDIR=f"{home}/ray",
            **{MARK: self._mark},
        )
        return Node(home, command, environ)


def production(nodes: Nodes, counts: dict[str, int], **args: Any) -> dict[str, Any]:
    """production.yaml with this machine's port, replica counts and resources, and settings on top of its `args`."""
    config = yaml.safe_load((ROOT / "pipeline" / "configs" / "production.yaml").read_text())
    config["http_options"] |= {"host": "127.0.0.1", "port": nodes.port}
    config["proxy_location"] = "HeadOnly"  # two proxies on one machine can not have the same port
    (application,) = config["applications"]
    application["args"] |= {"public_url": nodes.url, "data_dir": str(nodes.folder / "data"), **args}
    for deployment in application["deployments"]:
        count = counts.get(deployment["name"], 1)
        deployment["autoscaling_config"] = {"min_replicas": count, "max_replicas": count, "target_ongoing_requests": 8}
        deployment["ray_actor_options"] = {"num_cpus": 0.1}
        deployment["max_replicas_per_node"] = 1
    return config


def wait(look: Callable[[], object], what: str, within_s: float = START_S) -> float:
    """Seconds until it is true."""
    begun = time.monotonic()
    while time.monotonic() - begun < within_s:
        if look():
            return time.monotonic() - begun
        time.sleep(0.1)
    raise AssertionError(f"{what} did not come within {within_s} s")


def _raylets(mark: str) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    for process in members(mark):
        try:
            if process.name() == "raylet":
                found.append(process)
        except psutil.Error:
            continue
    return found
