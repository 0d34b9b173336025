"""headrace as a target: its supervisor in the foreground, its generator pointed at the simulator."""

import asyncio
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from loadtest.bench.bare import free_ports
from loadtest.bench.processes import launch, stop
from loadtest.bench.targets import Case, Endpoint

START_S = 300.0
"""A first start may have to index the starter corpus."""

CASES = (Case("headrace-direct", "headrace-direct"), Case("headrace", "headrace"))


@dataclass(frozen=True)
class Headrace:
    """The product, in a data folder and on a port of its own; `headrace-direct` answers without retrieval."""

    name: str = "headrace"
    config: str = "pipeline/configs/laptop.yaml"
    cases: tuple[Case, ...] = CASES

    @asynccontextmanager
    async def running(self, upstream: str) -> AsyncIterator[Endpoint]:
        """Run `headrace serve` until SIGINT; everything it starts is below it in the process tree."""
        folder = Path(tempfile.mkdtemp(prefix="hr-"))
        (port,) = free_ports(1)
        environment = {
            "HEADRACE_GENERATOR__BASE_URL": upstream,
            "HEADRACE_GENERATOR__MODEL": "sim",
            "HEADRACE_GENERATOR__API_KEY": "none",
            "HEADRACE_DATA_DIR": str(folder / "data"),
            "HEADRACE_PORT": str(port),
        }
        command = [sys.executable, "-m", "pipeline.cli", "serve", "--config", self.config]
        process = await launch(command, environment, folder / "log")
        try:
            await asyncio.wait_for(process.line("ready"), START_S)
            key = (folder / "data" / "demo.key").read_text().strip()
            yield Endpoint(f"http://127.0.0.1:{port}/v1", key, process.pid)
        finally:
            await stop(process, signal.SIGINT, port)
            shutil.rmtree(folder, ignore_errors=True)
