"""The whole product, started as its users start it, with the simulator for a model."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import psutil
import pytest
from redis.asyncio import Redis

from deployments.core.config import Settings
from deployments.core.keys import Keys
from deployments.core.store import open_store
from deployments.core.tenants import LimitTerms, Tenants, Terms
from deployments.core.usage import Books
from deployments.core.valkey import connect
from loadtest.bench.bare import free_ports
from pipeline.valkey import Valkey
from tests.embedder.conftest import furnish
from tests.loadtest.conftest import Simulator, spawn

__all__ = ["spawn"]

START_S = 180


@dataclass
class Stack:
    """A running `headrace serve`."""

    port: int
    data_dir: Path
    process: "subprocess.Popen[str]"
    backend: Simulator | None

    @property
    def url(self) -> str:
        """Where clients reach it."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def key(self) -> str:
        """The demo key."""
        return (self.data_dir / "demo.key").read_text().strip()

    def http(self, key: str | None = None) -> httpx2.Client:
        """A plain client with the demo key."""
        return httpx2.Client(base_url=self.url, headers={"authorization": f"Bearer {key or self.key}"}, timeout=60)

    def processes(self) -> list[psutil.Process]:
        """Everything below the supervisor, itself included."""
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]

    def named(self, part: str) -> psutil.Process:
        """The process whose command line holds that text."""
        return next(process for process in self.processes() if any(part in word for word in process.cmdline()))

    def valkey(self) -> Redis:
        """A client of its Valkey that may do everything."""
        command = self.named("valkey.conf").cmdline()
        folder = Path(next(word for word in command if word.endswith("valkey.conf"))).parent
        passwords = [(self.data_dir / name).read_text() for name in ("valkey.key", "valkey-admin.key")]
        return connect(Valkey(folder, *passwords).admin_url)

    async def tenant(self, name: str, weight: float = 1.0, **limits: int) -> str:
        """The key of a new tenant."""
        settings = Settings(data_dir=self.data_dir)
        store = open_store(settings)
        try:
            await Tenants(store, "test").add(Terms(name=name, weight=weight, limits=LimitTerms(**limits)), name)
            return (await Keys(store, settings.pepper_bytes()).mint(name, ["chat"])).secret
        finally:
            await store.close()

    async def used(self, tenant: str) -> tuple[int, int, int]:
        """Requests, and tokens read and written, that the books hold of a tenant."""
        store = open_store(Settings(data_dir=self.data_dir))
        try:
            days = await Books(store).of(tenant, 2)
        finally:
            await store.close()
        return sum(day.requests for day in days), sum(day.prompt_tokens for day in days), sum(day.completion_tokens for day in days)

    def headrace(self, *words: str, within_s: float = 300) -> "subprocess.CompletedProcess[str]":
        """Run a command of the command line against it."""
        command = [sys.executable, "-m", "pipeline.cli", *words, "--url", self.url, "--key", self.key]
        return subprocess.run(command, capture_output=True, text=True, timeout=within_s)

    def until(self, look: Callable[[], object], what: str, within_s: float = 60) -> float:
        """Wait for a true value; returns how long it took, in seconds."""
        started = time.monotonic()
        while time.monotonic() - started < within_s:
            try:
                if look():
                    return time.monotonic() - started
            except (httpx2.HTTPError, psutil.Error, StopIteration, OSError):
                pass
            time.sleep(0.05)
        raise AssertionError(f"{what} did not come within {within_s} s")


def start(folder: Path, backend: Simulator | None, **settings: str) -> Stack:
    """Start a stack with its state in a folder, and wait until it is ready."""
    furnish(folder)
    (port,) = free_ports(1)
    environ = dict(os.environ, HEADRACE_DATA_DIR=str(folder), HEADRACE_PORT=str(port), HEADRACE_STARTER_CORPUS="false", **settings)
    if backend:
        environ |= {"HEADRACE_GENERATOR__BASE_URL": backend.url, "HEADRACE_GENERATOR__MODEL": "sim"}
    path = folder.parent / f"{folder.name}.log"
    with path.open("w") as log:
        process = subprocess.Popen([sys.executable, "-m", "pipeline.cli", "serve"], env=environ, stdout=log, stderr=log, text=True)
    stack = Stack(port, folder, process, backend)
    started = time.monotonic()
    try:
        while "\nready" not in path.read_text():
            assert process.poll() is None, path.read_text()
            assert time.monotonic() - started < START_S, path.read_text()
            time.sleep(0.1)
    except AssertionError:
        end(stack)
        raise
    return stack


def end(stack: Stack) -> list[psutil.Process]:
    """Ctrl-C; returns what is still alive of its processes."""
    if stack.process.poll() is not None:
        return []
    known = stack.processes()
    stack.process.send_signal(signal.SIGINT)
    stack.process.wait(60)
    return psutil.wait_procs(known, timeout=1)[1]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path: sockets live in it."""
    path = Path(tempfile.mkdtemp(prefix="hr-"))
    yield path / "data"
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def upstream(spawn: Callable[..., Simulator]) -> Simulator:
    """A simulator that writes 50 tokens, 20 ms apart."""
    return spawn("--ttft-ms", "50", "--itl-ms", "20", "--tokens", "50")


class Shared:
    """The stack that tests share, one at a time: one that stands idle takes a fifth of a core, and memory, from the next."""

    def __init__(self) -> None:
        self._name, self._folder = "", Path()
        self._stack: Stack | None = None

    def run(self, name: str, make: Callable[[Path], Stack]) -> Stack:
        """The stack of that name, which `make` starts with its state in a folder."""
        self.only(name)
        if self._stack is None:
            self._name, self._folder = name, Path(tempfile.mkdtemp(prefix="hr-"))
            self._stack = make(self._folder / "data")
        return self._stack

    def only(self, name: str) -> None:
        """End the one that runs, if it is another."""
        if self._stack and name != self._name:
            ended, self._stack = self._stack, None
            alive = end(ended)
            shutil.rmtree(self._folder, ignore_errors=True)
            assert alive == []


_SHARED = pytest.StashKey[Shared]()


@pytest.fixture(scope="session")
def shared(request: pytest.FixtureRequest) -> Iterator[Shared]:
    """The stack that is running."""
    request.session.stash[_SHARED] = Shared()
    yield request.session.stash[_SHARED]
    request.session.stash[_SHARED].only("")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """End what runs before anything that the test brings itself is started."""
    running, names = item.session.stash.get(_SHARED, None), getattr(item, "fixturenames", ())
    if running:
        running.only(next((name for name in ("stack", "pair", "scaled") if name in names), ""))


@pytest.fixture
def stack(shared: Shared, upstream: Simulator) -> Stack:
    """One stack for all tests that leave it as it was."""
    return shared.run("stack", lambda folder: start(folder, upstream))


WORDS = [f"w{i}" for i in range(60)]
LEASE_S = 3.0
"""How long a gateway that died holds the key of an answer it had begun."""


@pytest.fixture
def pair(shared: Shared, spawn: Callable[..., Simulator]) -> Stack:
    """A stack with two gateways and two workers, parts of which tests kill."""

    def make(folder: Path) -> Stack:
        backend = spawn("--ttft-ms", "50", "--itl-ms", "20", "--tokens", str(len(WORDS)))
        twice = {f"HEADRACE_{stage}__SCALING__{bound}_REPLICAS": "2" for stage in ("GATEWAY", "WORKER") for bound in ("MIN", "MAX")}
        return start(folder, backend, HEADRACE_IDEMPOTENCY__LEASE_S=str(LEASE_S), **twice)

    return shared.run("pair", make)
