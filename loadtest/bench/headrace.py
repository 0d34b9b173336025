"""headrace as a target: its supervisor in the foreground, its generator pointed at the simulator."""

import json
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from loadtest.bench.bare import free_ports
from loadtest.bench.processes import launch, stop
from loadtest.bench.targets import Case, Endpoint

START_S = 900.0
"""A first start indexes the starter corpus."""

UP = "Ctrl-C ends it"
"""What the supervisor says last: the service is ready and the starter corpus is in."""

LAPTOP = "pipeline/configs/laptop.yaml"

ONE_REPLICA = {
    f"HEADRACE_{stage}__SCALING__MAX_REPLICAS": "1" for stage in ("GATEWAY", "EMBEDDER", "RETRIEVER", "ROUTER", "GENERATOR", "WORKER")
}
"""As the bare apps have: a measurement must not be disturbed by a replica that starts."""

CASES = (Case("headrace-direct", "headrace-direct"), Case("headrace", "headrace"))
UNMEASURED = (Case("unmeasured-direct", "headrace-direct"), Case("unmeasured", "headrace"))


@dataclass(frozen=True)
class Headrace:
    """The product, on a port of its own; `headrace-direct` answers without retrieval."""

    data: Path
    """Its state; kept from one start to the next, so that the corpus is indexed once."""
    config: str = LAPTOP
    name: str = "headrace"
    cases: tuple[Case, ...] = CASES
    settings: Mapping[str, str] = field(default_factory=lambda: ONE_REPLICA)
    """More of its environment."""

    @asynccontextmanager
    async def running(self, upstream: str) -> AsyncIterator[Endpoint]:
        """Run `headrace serve` until SIGINT; everything it starts is below it in the process tree."""
        (port,) = free_ports(1)
        environment = {
            "HEADRACE_GENERATOR__BASE_URL": upstream,
            "HEADRACE_GENERATOR__MODEL": "sim",
            "HEADRACE_GENERATOR__API_KEY": "none",
            "HEADRACE_DATA_DIR": str(self.data),
            "HEADRACE_PORT": str(port),
            **self.settings,
        }
        command = [sys.executable, "-m", "pipeline.cli", "serve", "--config", self.config]
        with tempfile.TemporaryDirectory(prefix="hr-") as folder:
            process = await launch(command, environment, Path(folder))
            try:
                await process.line(UP, START_S)
                key = (self.data / "demo.key").read_text().strip()
                behind = json.loads((self.data / "instance.json").read_bytes())["serve_port"]
                admin = (self.data / "admin.key").read_text().strip()
                yield Endpoint(f"http://127.0.0.1:{port}/v1", key, process.pid, admin, f"http://127.0.0.1:{behind}/v1")
            finally:
                await stop(process, signal.SIGINT, port)
