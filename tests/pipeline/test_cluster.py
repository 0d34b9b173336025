"""The whole supervisor with a small application: real Ray, Serve, HAProxy and Valkey."""

import asyncio
import contextlib
import json
import pickle
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil
import pytest
from ray.serve.generated import serve_pb2

from deployments.core.config import environment
from pipeline.instance import Card, members, read
from pipeline.probe import fetch, pick, vacant

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
_START_S = 120


def command(verb: str) -> list[str]:
    return [sys.executable, "-m", "pipeline.cli", verb, "--config", "tests/pipeline/standin.yaml"]


def settings(data_dir: Path, port: int) -> dict[str, str]:
    return environment(HEADRACE_DATA_DIR=str(data_dir), HEADRACE_PORT=str(port))


@dataclass
class Running:
    """A started headrace."""

    process: subprocess.Popen[bytes]
    data_dir: Path
    port: int
    card: Card

    def get(self, path: str) -> tuple[int, bytes]:
        return asyncio.run(fetch("127.0.0.1", self.port, path))

    def find(self, words: str) -> list[psutil.Process]:
        found = []
        for process in members(self.card.mark):
            with contextlib.suppress(psutil.Error):
                if words in " ".join(process.cmdline()):
                    found.append(process)
        return found


def wait(observe: Callable[[], object], within_s: float) -> float:
    """Seconds until what is observed is true."""
    begun = time.monotonic()
    while not observe():
        assert time.monotonic() - begun < within_s, "it did not happen in time"
        time.sleep(0.05)
    return time.monotonic() - begun


@contextlib.contextmanager
def started(folder: Path) -> Iterator[Running]:
    port = pick(1)[0]
    data_dir = folder / ("deep" * 20) / "data"
    output = folder / "output"
    with output.open("wb") as file:
        process = subprocess.Popen(command("serve"), cwd=ROOT, env=settings(data_dir, port), stdout=file, stderr=file)
    try:
        wait(lambda: re.search(r"^ready", output.read_text(), re.M) or process.poll() is not None, _START_S)
        card = read(data_dir)
        assert card is not None, output.read_text()
        yield Running(process, data_dir, port, card)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(60)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with started(tmp_path_factory.mktemp("stack")) as one:
        yield one
        everything = list(members(one.card.mark))
    gone, alive = psutil.wait_procs(everything, timeout=1)
    assert gone
    assert not alive
    assert vacant("127.0.0.1", one.port)
    assert not Path(one.card.short).is_symlink()


def test_the_application_answers_through_the_edge(running: Running):
    status, body = running.get("/echo/x")
    assert status == 200
    assert json.loads(body)["headers"]["x-forwarded-for"] == "127.0.0.1"


def test_the_application_is_told_where_valkey_is(running: Running):
    _, body = running.get("/valkey")
    assert json.loads(body)["url"].startswith("unix://gw:")


def test_every_listener_is_documented(running: Running):
    page = (ROOT / "docs" / "listeners.md").read_text()
    open_to_all = set()
    for process in [*members(running.card.mark), *psutil.Process(running.process.pid).children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            for connection in process.net_connections("inet"):
                if connection.status == psutil.CONN_LISTEN:
                    name = process.name().split(":python")[0]
                    assert name[:13] in page or name.startswith("python"), f"{name} is not on the page"
                    if connection.laddr.ip not in ("127.0.0.1", "::1", "::ffff:127.0.0.1"):
                        open_to_all.add(name[:13])
    assert open_to_all <= {"ray::ServeRep"}


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("token", [None, "Bearer " + "0" * 64])
@pytest.mark.parametrize("method", ["HandleRequest", "HandleRequestWithRejection"])
def test_a_replica_unpickles_nothing_without_the_token(running: Running, tmp_path: Path, token: str | None, method: str):
    bomb = tmp_path / "touched"
    replica = psutil.Process(running.find("ServeReplica")[0].pid)
    ports = {c.laddr.port for c in replica.net_connections("tcp6") if c.status == psutil.CONN_LISTEN and c.laddr.ip == "::"}
    assert len(ports) == 1
    payload = serve_pb2.ASGIRequest(pickled_request_metadata=pickle.dumps(Bomb(bomb))).SerializeToString()
    with grpc.insecure_channel(f"127.0.0.1:{ports.pop()}") as channel:
        call = channel.unary_unary(f"/ray.serve.ASGIService/{method}")
        with pytest.raises(grpc.RpcError) as refused:
            call(payload, metadata=(("authorization", token),) if token else (), timeout=10)
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert not bomb.exists()


def test_what_it_writes_is_private(running: Running):
    assert all(path.stat().st_mode & 0o077 == 0 for path in running.data_dir.glob("*.key"))
    assert (running.data_dir / "run").stat().st_mode & 0o077 == 0


def test_a_second_one_on_the_same_data_or_port_says_so_at_once(running: Running, tmp_path: Path):
    for data_dir, port, reason in ((running.data_dir, pick(1)[0], "already runs"), (tmp_path, running.port, "is taken")):
        second = subprocess.run(command("serve"), cwd=ROOT, env=settings(data_dir, port), capture_output=True, text=True, timeout=30)
        assert second.returncode == 1
        assert reason in second.stderr


def test_doctor_sees_a_healthy_instance(running: Running):
    done = subprocess.run(
        command("doctor"), cwd=ROOT, env=settings(running.data_dir, running.port), capture_output=True, text=True, timeout=60
    )
    assert f"process {running.card.pid}" in done.stdout.replace("\n", " ")


def test_a_reload_is_told_of_and_the_stream_it_finds_goes_on(running: Running):
    with socket.create_connection(("127.0.0.1", running.port), timeout=20) as stream:
        stream.sendall(b"GET /stream?n=20&pause_s=0.1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        workers = {p.pid for p in running.find("edge.cfg")}
        done = subprocess.run(
            command("reload"), cwd=ROOT, env=settings(running.data_dir, running.port), capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, done.stdout) == (0, "reloaded\n")
        assert {p.pid for p in running.find("edge.cfg")} - workers
        assert b"data: 19" in b"".join(iter(lambda: stream.recv(65536), b""))


@pytest.mark.parametrize(("part", "within_s"), [("valkey-server", 3), ("edge.cfg", 3), ("serve/", 20), ("ServeReplica", 20)])
def test_what_is_killed_comes_back(running: Running, part: str, within_s: float):
    victims = [p for p in running.find(part) if part != "serve/" or "haproxy.cfg" in " ".join(p.cmdline())]
    assert victims
    old = {victim.pid for victim in victims}
    begun = time.monotonic()
    for victim in victims:
        victim.kill()
    wait(lambda: {p.pid for p in running.find(part)} - old, within_s)
    wait(lambda: running.get("/echo/x")[0] == 200, within_s)
    print(f"\n{part} killed: back after {time.monotonic() - begun:.1f} s")  # noqa: T201


@pytest.mark.full
def test_ray_is_started_again_with_the_application_and_the_edge_stays(running: Running):
    edge = {process.pid for process in running.find("edge.cfg")}
    for victim in running.find("raylet/raylet"):
        victim.kill()
    noticed = wait(lambda: running.get("/echo/x")[0] == 503, 20)
    print(f"\nraylet killed: back after {noticed + wait(lambda: running.get('/echo/x')[0] == 200, 90):.1f} s")  # noqa: T201
    assert {process.pid for process in running.find("edge.cfg")} == edge


@pytest.mark.full
def test_a_killed_supervisor_leaves_nothing(tmp_path: Path):
    with started(tmp_path) as one:
        everything = list(members(one.card.mark))
        one.process.kill()
        one.process.wait()
        _, alive = psutil.wait_procs(everything, timeout=30)
        assert not alive


@pytest.mark.full
def test_stop_ends_it_from_another_terminal(tmp_path: Path):
    with started(tmp_path) as one:
        everything = list(members(one.card.mark))
        subprocess.run(command("stop"), cwd=ROOT, env=settings(one.data_dir, one.port), check=True, timeout=90)
        assert one.process.wait(10) == 0
        _, alive = psutil.wait_procs(everything, timeout=5)
        assert not alive
