"""Measures one case: the same phases of load for every target, CPU and memory read from the system."""

import asyncio
import sys
from asyncio.subprocess import PIPE
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import httpx2
import orjson

from loadtest.bench.driver import Job, Result
from loadtest.bench.processes import Spent, Tree, busy_s, elapsed
from loadtest.bench.targets import Case, Endpoint
from loadtest.bench.upstream import Pace, Upstream
from loadtest.figures import percentile

BUSY = 0.9
"""A load generator or simulator that used more of a core than this was itself the bottleneck."""

FOREIGN = 0.3
"""Of a core: when other processes used more than this, a run says too little about the target."""

DIRECT = "simulator"
"""The case every other one is compared with."""

WARM_UP = "warm-up"
CROWDS = (50, 100)
UNARY_CLIENTS = 64


@dataclass(frozen=True, slots=True)
class Windows:
    """How long each phase is measured, in seconds, and whether its streams begin one by one or, harder, together."""

    warm_s: float = 2.0
    single_s: float = 15.0
    crowd_s: float = 10.0
    unary_s: float = 6.0
    settle_s: float = 2.0
    spread: bool = False


@dataclass(slots=True)
class Run:
    """All figures of one case in one repetition."""

    case: str
    figures: dict[str, float] = field(default_factory=dict[str, float])
    memory_mib: list[tuple[str, float]] = field(default_factory=list[tuple[str, float]])
    faults: list[str] = field(default_factory=list[str])
    """Why this run does not count; empty when it does."""


Sample = tuple[dict[int, Spent], dict[int, Spent], float]
"""CPU times of the target's processes, of the simulator's, and of all processes of the machine."""


class Failed(RuntimeError):
    """The load generator itself did not work."""


class Meter:
    """Puts load on one running target."""

    def __init__(
        self, case: Case, endpoint: Endpoint, upstream: Upstream, pace: Pace, windows: Windows, say: Callable[[str], None]
    ) -> None:
        self._case = case
        self._endpoint = endpoint
        self._pace = pace
        self._windows = windows
        self._say = say
        self._tree = Tree(endpoint.pid) if endpoint.pid is not None else None
        self._simulator = Tree(upstream.pid)
        self._run = Run(case.label)

    async def measure(self) -> Run:
        """Warm up, then one stream at a time, then crowds, then requests that are not streamed."""
        windows, figures = self._windows, self._run.figures
        await self._phase(WARM_UP, self._job(20, windows.warm_s), {})
        await self._single(self._job(1, windows.single_s))
        if self._endpoint.admin is not None:
            await self._admission(self._endpoint.admin)
        for clients in CROWDS:
            await self._crowd(self._job(clients, windows.crowd_s))
        if self._tree is not None:
            self._run.memory_mib = self._tree.memory()
            figures["memory_mib"] = sum(size for _, size in self._run.memory_mib)
        unary = self._job(UNARY_CLIENTS, windows.unary_s, stream=False)
        used: dict[str, float] = {}
        result = await self._phase("unary", unary, used)
        figures["unary_rps"] = result.answered / result.window_s
        if result.total_ms:
            figures["unary_p50_ms"] = percentile(result.total_ms, 50)
        if "cpu_s" in used:
            figures["unary_cpu_ms"] = 1000 * used["cpu_s"] / max(result.answered, 1)
        if self._endpoint.inner is not None:
            await self._unfronted(self._endpoint.inner)
        return self._run

    async def _admission(self, key: str) -> None:
        """What admission took of the requests just made."""
        async with httpx2.AsyncClient(headers={"authorization": f"Bearer {key}"}) as http:
            load = (await http.get(f"{self._endpoint.url.removesuffix('/v1')}/admin/load")).json()
        self._run.figures["admission_ms"] = load["admit_ms"]

    async def _unfronted(self, url: str) -> None:
        """The same without the proxy in front: one at a time, and not streamed."""
        windows, figures = self._windows, self._run.figures
        single = await self._phase("one at a time, no edge", self._job(1, windows.single_s, url=url), {})
        if single.ttft_ms:
            figures["edge_ttft_ms"] = figures["single_ttft_ms"] - percentile(single.ttft_ms, 50)
        unary = await self._phase("unary, no edge", self._job(UNARY_CLIENTS, windows.unary_s, stream=False, url=url), {})
        figures["inner_unary_rps"] = unary.answered / unary.window_s
        if unary.total_ms:
            figures["inner_unary_p50_ms"] = percentile(unary.total_ms, 50)

    def _job(self, clients: int, seconds: float, stream: bool = True, url: str | None = None) -> Job:
        return Job(
            url or self._endpoint.url,
            self._endpoint.key,
            self._case.model,
            stream,
            clients,
            seconds,
            ramp_s=self._pace.total_s if self._windows.spread and stream else 0.0,
            settle_s=self._windows.settle_s,
            max_tokens=None if stream else 1,
            words=self._pace.tokens if stream else 1,
        )

    async def _single(self, job: Job) -> None:
        result = await self._phase("one at a time", job, {})
        if result.ttft_ms:
            self._run.figures |= {
                "single_ttft_ms": percentile(result.ttft_ms, 50),
                "single_total_ms": percentile(result.total_ms, 50),
            }

    async def _crowd(self, job: Job) -> None:
        used: dict[str, float] = {}
        result = await self._phase(f"{job.clients} streams", job, used)
        found = {"tokens_s": result.tokens / result.window_s}
        if result.ttft_ms:
            found |= {
                "ttft_p50_ms": percentile(result.ttft_ms, 50),
                "ttft_p95_ms": percentile(result.ttft_ms, 95),
                "total_p50_ms": percentile(result.total_ms, 50),
                "longest_gap_p95_ms": percentile(result.gaps_ms, 95),
            }
        if "cpu_s" in used:
            found["cpu_ms_per_1000"] = 1e6 * used["cpu_s"] / max(result.tokens, 1)
        self._run.figures |= {f"{name}_{job.clients}": value for name, value in found.items()}

    async def _phase(self, name: str, job: Job, used: dict[str, float]) -> Result:
        self._say(f"{self._case.label}: {name}")
        result, before, after = await self._drive(job)
        target = elapsed(before[0], after[0])
        if self._tree is not None:
            used["cpu_s"] = target
        simulator = elapsed(before[1], after[1]) / result.window_s
        foreign = (after[2] - before[2] - target) / result.window_s - simulator - result.cpu_share
        faults = [f"{name}: {count} times {reason}" for reason, count in result.failures.items()]
        if max(result.cpu_share, simulator) > BUSY:
            faults.append(f"{name}: load generator {result.cpu_share:.0%}, simulator {simulator:.0%} of a core")
        if foreign > FOREIGN and name != WARM_UP and (self._tree is not None or self._case.label == DIRECT):
            faults.append(f"{name}: other processes used {foreign:.0%} of a core")
        self._run.faults += faults
        self._run.figures[f"client_cpu {name}"] = result.cpu_share
        self._run.figures[f"simulator_cpu {name}"] = simulator
        self._run.figures[f"foreign_cpu {name}"] = foreign
        return result

    def _sample(self) -> Sample:
        return (self._tree.spent() if self._tree is not None else {}, self._simulator.spent(), busy_s())

    async def _drive(self, job: Job) -> tuple[Result, Sample, Sample]:
        command = [sys.executable, "-m", "loadtest.bench.driver", orjson.dumps(asdict(job)).decode()]
        process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, limit=2**26)
        if process.stdout is None:
            raise Failed("the load generator has no stdout")
        samples: dict[str, Sample] = {}
        result: Result | None = None
        try:
            async for line in process.stdout:
                message = orjson.loads(line)
                event = message.pop("event")
                if event == "result":
                    result = Result(**message)
                else:
                    samples[event] = self._sample()
        finally:
            if result is None and process.returncode is None:
                process.kill()
            code = await process.wait()
        if code or result is None:
            raise Failed(f"the load generator ended with {code}")
        return result, samples["open"], samples["close"]
