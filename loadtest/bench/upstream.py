"""Runs the simulator as the upstream of what is measured."""

import json
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from loadtest.bench.processes import launch, stop

START_S = 30.0


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast the upstream answers; every answer is the same."""

    ttft_ms: float = 50.0
    itl_ms: float = 20.0
    tokens: int = 50

    @property
    def total_s(self) -> float:
        """How long one streamed answer takes."""
        return (self.ttft_ms + self.itl_ms * (self.tokens - 1)) / 1000


@dataclass(frozen=True, slots=True)
class Upstream:
    """A running simulator."""

    port: int
    pid: int

    @property
    def url(self) -> str:
        """Its OpenAI base URL."""
        return f"http://127.0.0.1:{self.port}/v1"


@asynccontextmanager
async def simulated(pace: Pace, port: int = 0, more: Mapping[str, float] | None = None) -> AsyncIterator[Upstream]:
    """Run a simulator at the given pace; port 0 takes a free one. Faults are among `more` of its options."""
    options = {"ttft-ms": pace.ttft_ms, "itl-ms": pace.itl_ms, "tokens": pace.tokens, "port": port, **(more or {})}
    flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    with tempfile.TemporaryDirectory(prefix="hs-") as folder:
        process = await launch([sys.executable, "-m", "loadtest.simulator", *flags], {}, Path(folder))
        bound = json.loads(await process.line("port", START_S))["port"]
        try:
            yield Upstream(bound, process.pid)
        finally:
            await stop(process, signal.SIGTERM, bound)
