"""The stack that is broken on purpose: two simulated backends, a fault proxy before the first, and headrace in front of them."""

import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psutil

from loadtest.bench.headrace import ONE_REPLICA, Headrace
from loadtest.bench.processes import Stuck
from loadtest.bench.targets import Endpoint
from loadtest.bench.upstream import Pace, Upstream, simulated
from loadtest.chaos.load import STEADY, Load, Plan, client
from loadtest.chaos.proxy import Proxy

PACE = Pace(ttft_ms=50, itl_ms=20, tokens=50)

FIRST_S = 1.0
"""A backend that says nothing for so long is left for the next one; the same between two tokens."""

SLOTS = 32
"""Answers that the backends may be asked to write at once, as an operator who knows them would say."""

WAIT_S = 3.0
"""The longest wait for a slot; who would wait longer is refused at once."""

LONG, LONG_WORDS = "chaos-long", 200
"""A model whose answers take four seconds."""

SLOW, SLOW_MS = "chaos-slow", 800
"""A model whose first word comes late, but in time."""

FLOOD, FLOOD_WORDS = "chaos-flood", 4000
"""A model that writes a megabyte in forty seconds."""

CALM_S = 11.0
"""A process that dies younger is started again only after a pause, which is there for one that cannot live."""

PARTS = {
    "edge": "/edge/edge.cfg",
    "driver": "pipeline.cluster",
    "Serve's ingress": "/haproxy.cfg",
    "Serve's controller": "ray::ServeController",
    "raylet": "raylet/raylet",
    "GCS": "gcs/gcs_server",
    "Valkey": "valkey.conf",
    **{stage: f"ray::ServeReplica:headrace:{stage}" for stage in ("gateway", "embedder", "retriever", "router", "generator", "worker")},
}
"""What a process of each part has in its command line."""

DOCUMENT = "# Mills\n\nA headrace is the channel that brings water to the wheel of a mill. A mill works by the weight of that water.\n"


@dataclass(frozen=True)
class Stack:
    """A running headrace, its backends, and the proxy that the first of them is reached through."""

    endpoint: Endpoint
    data: Path
    bad: Upstream
    """The backend that is asked first."""
    good: Upstream
    proxy: Proxy
    http: httpx2.AsyncClient

    @property
    def port(self) -> int:
        """Of the edge."""
        return int(self.endpoint.url.removesuffix("/v1").rpartition(":")[2])

    def load(self, plan: Plan = STEADY) -> Load:
        """Clients with the demo key."""
        return Load(self.endpoint.url, self.endpoint.key, self.http, plan)

    def processes(self, part: str) -> list[psutil.Process]:
        """The processes of a part of this stack, oldest first; of no other."""
        found: list[tuple[float, psutil.Process]] = []
        for process in psutil.Process(self.endpoint.pid).children(recursive=True):
            with suppress(psutil.Error):
                if any(PARTS[part] in word for word in process.cmdline()):
                    found.append((process.create_time(), process))
        return [process for _, process in sorted(found, key=lambda each: each[0])]

    def process(self, part: str) -> psutil.Process:
        """One of them, drawn; of a HAProxy the worker, which holds the connections. Stuck where there is none."""
        found = self.processes(part)
        if not found:
            raise Stuck(f"there is no process of {part}")
        return found[-1] if PARTS[part].endswith(".cfg") else random.choice(found)

    async def ready(self, within_s: float = 90) -> None:
        """Wait until every part says it could answer, and has lived long enough to be started again at once."""
        await until(self._is_ready, "every part", within_s)

    async def _is_ready(self) -> bool:
        young = time.time() - CALM_S
        if any(process.create_time() > young for process in self.processes("Valkey")):
            return False
        reply = await self.http.get(f"{self.endpoint.url.removesuffix('/v1')}/health/ready")
        return reply.status_code == 200

    async def spoil(self, **faults: float) -> None:
        """Give the first backend these probabilities of faults, all others being 0."""
        (await self.http.post(f"http://127.0.0.1:{self.bad.port}/sim/faults", json=faults)).raise_for_status()

    async def stats(self, upstream: Upstream) -> dict[str, Any]:
        """What a backend says of its answers."""
        return (await self.http.get(f"http://127.0.0.1:{upstream.port}/sim/stats")).json()

    async def running(self) -> int:
        """Answers that the backends are writing."""
        return sum([(await self.stats(each))["open"] for each in (self.bad, self.good)])

    async def held(self) -> int:
        """Places that admission counts as taken, those in its queue included."""
        headers = {"authorization": f"Bearer {self.endpoint.admin}"}
        load = (await self.http.get(f"{self.endpoint.url.removesuffix('/v1')}/admin/load", headers=headers)).json()
        return load["running"] + load["waiting"]


async def until(look: Callable[[], Awaitable[object]], what: str, within_s: float) -> float:
    """Wait for a true value and return how long it took, in seconds; Stuck when it does not come."""
    started = time.monotonic()
    while time.monotonic() - started < within_s:
        with suppress(httpx2.HTTPError, psutil.Error, OSError, ValueError):
            if await look():
                return time.monotonic() - started
        await asyncio.sleep(0.05)
    raise Stuck(f"{what} did not come within {within_s:.0f} s")


def settings(proxy: Proxy, good: Upstream) -> dict[str, str]:
    """Return the environment of the stack: a fallback, short timeouts, known slots, one replica of each stage."""
    models = [
        {"name": name, "retrieves": False, "backends": [{"name": name, "base_url": good.url, "model": suffix}]}
        for name, suffix in (
            (LONG, f"sim@tokens={LONG_WORDS}"),
            (SLOW, f"sim@ttft={SLOW_MS}"),
            (FLOOD, f"sim@tokens={FLOOD_WORDS},itl=10"),
        )
    ]
    return {
        **ONE_REPLICA,
        "HEADRACE_STARTER_CORPUS": "false",
        "HEADRACE_GENERATOR__FALLBACKS": json.dumps([{"name": "good", "base_url": good.url, "model": "sim"}]),
        "HEADRACE_GENERATOR__FIRST_TOKEN_TIMEOUT_S": str(FIRST_S),
        "HEADRACE_GENERATOR__INTER_TOKEN_TIMEOUT_S": str(FIRST_S),
        "HEADRACE_GENERATOR__RESILIENCE__OPEN_S": "1",
        "HEADRACE_GENERATOR__RESILIENCE__LONGEST_OPEN_S": "2",
        "HEADRACE_ADMISSION__MAX_RUNNING": str(SLOTS),
        "HEADRACE_ADMISSION__WAIT_S": str(WAIT_S),
        "HEADRACE_NODE__ADDRESS_CONNECTIONS": "12000",
        "HEADRACE_GATEWAY__MAX_SOCKETS": "6000",
        "HEADRACE_MODELS": json.dumps(models),
    }


@asynccontextmanager
async def started(config: str) -> AsyncIterator[Stack]:
    """Run all of it, with one document in the index; nothing is left of it at the end."""
    with tempfile.TemporaryDirectory(prefix="hc-", ignore_cleanup_errors=True) as folder:
        data = Path(folder) / "data"
        async with simulated(PACE) as bad, simulated(PACE) as good, Proxy(bad.port) as proxy:
            target = Headrace(data, config, settings=settings(proxy, good))
            async with target.running(f"http://127.0.0.1:{proxy.port}/v1") as endpoint, client(endpoint.key) as http:
                await _ingest(endpoint, Path(folder))
                yield Stack(endpoint, data, bad, good, proxy, http)


async def _ingest(endpoint: Endpoint, folder: Path) -> None:
    (folder / "mill.md").write_text(DOCUMENT)
    words = [
        sys.executable,
        "-m",
        "pipeline.cli",
        "ingest",
        str(folder / "mill.md"),
        "--url",
        endpoint.url.removesuffix("/v1"),
        "--key",
        endpoint.key,
    ]
    process = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT)
    said, _ = await process.communicate()
    if process.returncode:
        raise Stuck(f"the document could not be ingested: {said.decode(errors='replace')[-500:]}")
