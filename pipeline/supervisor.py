"""What `headrace serve` runs: Valkey, the edge, Ray and the application, each started again when it dies, all ended in order.

Starts side by side what does not need each other; the application is deployed once Valkey answers and the database is prepared.
"""

import asyncio
import os
import resource
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

import psutil

from deployments.core.config import Settings, environment
from pipeline import edge, node, setup, valkey, vocabulary, weights
from pipeline.child import Backoff, Child, Command
from pipeline.instance import MARK, Instance
from pipeline.manifest import Manifest, Unreadable, load
from pipeline.probe import call, vacant

READY = "/health/ready"
RELOAD = signal.SIGUSR2  # a terminal that closes sends SIGHUP, and ends us

_START_S = 180  # a first start on a slow machine; a failure is reported long before
_DEATHS = 3
_RAY_GRACE_S = 25
_QUICK_GRACE_S = 3


class StartFailed(Exception):
    """headrace cannot start; says why and where to look."""


class Steps(Protocol):
    """Shows how far the start is."""

    def begin(self, name: str) -> None:
        """A step runs now."""
        ...

    def detail(self, name: str, text: str) -> None:
        """How far a step is."""
        ...

    def done(self, name: str, text: str = "") -> None:
        """A step is through."""
        ...

    def say(self, text: str) -> None:
        """Something worth a line."""
        ...


class Supervisor:
    """One instance of headrace on this machine, from start to end."""

    def __init__(self, manifest: Manifest, steps: Steps):
        self._manifest, self._settings, self._steps = manifest, manifest.settings, steps
        self._stopping, self._renewal = asyncio.Event(), asyncio.Event()
        self._prepared = False
        self._serve_up = asyncio.Event()
        self._app_up = False
        self._failure = ""
        self._valkey: Child | None = None

    async def run(self, ready: Callable[[], Awaitable[None]]) -> None:
        """Start, call `ready`, keep everything running until a signal, end everything. Raises StartFailed, InUse or Forged."""
        _raise_limit()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._stopping.set)
        loop.add_signal_handler(RELOAD, self._renewal.set)
        if not vacant(self._settings.host, self._settings.port):
            self._refuse_port()
        self._instance = Instance(self._settings.data_dir, self._settings.base_url, adopt=True)
        if self._instance.stragglers:
            self._steps.say(f"ended {len(self._instance.stragglers)} processes of an instance that died")
        try:
            self._configure()
            await self._until_stopped(self._start())
            if not self._stopping.is_set():
                await self._until_stopped(ready())
            await self._until_stopped(self._renew())
        finally:
            await self._end()

    def _configure(self) -> None:
        instance, settings = self._instance, self._settings
        logs = instance.data_dir / "logs"
        logs.mkdir(mode=0o700, exist_ok=True)
        mark = environment(**{MARK: instance.card.mark})
        url = settings.valkey_url.get_secret_value() if settings.valkey_url else ""
        if not url:
            server = valkey.configure(instance.subfolder("valkey"), instance.data_dir, settings.node.valkey_bytes)
            self._valkey = Child("valkey", Command(server.argv, mark), logs / "valkey.log", probe=server.up)
            url = server.url
        ray = node.configure(instance, self._manifest, url)
        try:
            self._proxy = edge.configure(instance.subfolder(edge.FOLDER), settings, ray.ports.serve, ray.ports.fallback)
        except edge.Unusable as error:
            raise StartFailed(str(error)) from error
        quick = Backoff(first_s=0.05, most_s=0.5, calm_s=2)
        self._edge = Child("edge", Command(self._proxy.argv, mark), logs / "edge.log", probe=self._proxy.up, bury=self._tidy, backoff=quick)
        self._ray = Child(
            "ray", ray.command, logs / "ray.log", probe=self._is_app_up, hear=self._hear, bury=self._bury, backoff=Backoff(1, 30, 30)
        )
        instance.listen(ray.ports.serve, ray.ports.fallback)

    async def _start(self) -> None:
        for child in self._children():
            child.start()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._step("models", self._verify()))
            group.create_task(self._step("database", asyncio.to_thread(setup.prepare, self._settings)))
            group.create_task(self._step("edge", self._rise(self._edge, self._edge.up)))
            if self._valkey is not None:
                group.create_task(self._step("valkey", self._rise(self._valkey, self._valkey.up)))
            group.create_task(self._step("ray", self._rise(self._ray, self._serve_up)))
        self._prepared = True
        self._deploy()
        await self._step("stages", self._rise(self._ray, self._ray.up))
        await self._step("answers", self._answers())

    async def _end(self) -> None:
        """Drain the edge, then end Serve and Ray, then Valkey, then whatever of ours is left."""
        graces = {"edge": self._settings.node.drain_s, "ray": _RAY_GRACE_S, "valkey": _QUICK_GRACE_S}
        signals = {"edge": signal.SIGUSR1, "ray": None, "valkey": signal.SIGTERM}
        for child in self._children():
            self._steps.begin(f"end {child.name}")
            last = signal.SIGTERM if child.name == "edge" else signal.SIGKILL  # HAProxy's second signal cuts what is still open
            gone = await child.stop(signals[child.name], graces[child.name], last)
            self._steps.done(f"end {child.name}", "" if gone else "cut short")
        names = await asyncio.to_thread(self._instance.close)
        if names:
            self._steps.say(f"killed what stayed behind: {', '.join(sorted(names))}")

    def _children(self) -> list[Child]:
        """In the order they are ended."""
        known = [getattr(self, name, None) for name in ("_edge", "_ray", "_valkey")]
        return [child for child in known if child is not None]

    async def _step(self, name: str, work: Awaitable[object]) -> None:
        self._steps.begin(name)
        await work
        self._steps.done(name)

    async def _verify(self) -> None:
        wanted = []
        if self._settings.embedder.model == "embedded":
            wanted.append(weights.EMBEDDER)
        if self._settings.generator.base_url is None and self._settings.generator.gguf is None:
            wanted.append(weights.GENERATOR)
        for one in wanted:
            await asyncio.to_thread(weights.verify, one)
        await asyncio.to_thread(vocabulary.build, self._settings)

    async def _rise(self, child: Child, up: asyncio.Event) -> None:
        until = time.monotonic() + _START_S
        while not up.is_set():
            if self._failure or child.deaths >= _DEATHS or time.monotonic() > until:
                logs = self._instance.data_dir / "logs"
                raise StartFailed(f"{child.name} does not come up. {self._failure} See {logs / child.name}.log".replace("  ", " "))
            await asyncio.sleep(0.05)

    async def _answers(self) -> None:
        """Wait until the application says it is ready, through the edge."""
        until = time.monotonic() + _START_S
        while True:
            status, body = await call(edge.door(self._instance.card.short), READY)
            if status == 200:
                return
            if time.monotonic() > until:
                raise StartFailed(f"the application is not ready: {body[:500].decode(errors='replace')}")
            await asyncio.sleep(0.1)

    async def _renew(self) -> None:
        """Give the edge its settings and certificate anew whenever told to; the card tells how it went."""
        while True:
            await self._renewal.wait()
            self._renewal.clear()
            try:
                self._proxy.write(self._renewed())
                await self._proxy.reload()
            except (Unreadable, edge.Unusable) as error:
                refused = str(error)
            else:
                refused = ""
            self._instance.reloaded(refused)
            self._steps.say(f"the edge stays as it was: {refused}" if refused else "the edge has its settings anew")

    def _renewed(self) -> Settings:
        """Our settings with the `node` part read again. Raises Unreadable or Unusable."""
        node, old = load(self._manifest.path).settings.node, self._settings.node
        if (node.tls_cert is None) != (old.tls_cert is None):
            raise edge.Unusable("TLS begins and ends with a restart: the application has to know its own URL")
        return self._settings.model_copy(update={"node": node})

    async def _until_stopped(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        stop = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
        elif error := task.exception():
            raise error.exceptions[0] if isinstance(error, ExceptionGroup) else error

    def _hear(self, line: str) -> bool:
        """Follow what the driver says; False for what is for the log."""
        if not line.startswith("@"):
            return False
        word, _, rest = line[1:].partition(" ")
        if word == "serve":
            self._serve_up.set()
            self._deploy()
        elif word == "stages":
            self._steps.detail("stages", " of ".join(rest.split()))
        elif word == "app":
            self._app_up = True
            if self._ray.deaths:
                self._steps.say("the application is back")
        elif word == "failed":
            self._failure = rest
        return False

    def _deploy(self) -> None:
        if self._prepared and self._serve_up.is_set():
            self._ray.write("deploy")

    async def _is_app_up(self) -> bool:
        return self._app_up

    async def _tidy(self) -> None:
        """The edge's master died: collect what came to us of its workers, which go with it."""
        _reap({child.pid for child in self._children() if child.pid is not None})

    async def _bury(self) -> None:
        """Ray died: end what it left behind, Serve's proxy above all, before it starts again."""
        self._app_up = False
        self._serve_up.clear()
        kept = [psutil.Process(child.pid) for child in (self._edge, self._valkey) if child is not None and child.pid is not None]
        spare = {one.pid for process in kept for one in (process, *process.children(recursive=True))}
        names = await asyncio.to_thread(self._instance.sweep, spare)
        _reap(spare)
        if self._prepared:
            self._failure = ""
            self._steps.say(f"Ray died and is started again; ended {len(names)} processes it left")

    def _refuse_port(self) -> None:
        port = self._settings.port
        holder = _holder(port)
        raise StartFailed(f"port {port} is taken{holder}; free it, or choose another with HEADRACE_PORT")


def _raise_limit() -> None:
    """Let children open as many files as the machine allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _holder(port: int) -> str:
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port and connection.pid:
                return f" by {psutil.Process(connection.pid).name()} (process {connection.pid})"
    except psutil.Error:
        pass
    return ""


def _reap(spare: set[int]) -> None:
    """Collect dead orphans that came to us; asyncio collects its own children itself."""
    for process in psutil.Process().children():
        try:
            if process.pid not in spare and process.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(process.pid, os.WNOHANG)
        except (psutil.Error, ChildProcessError):
            continue
