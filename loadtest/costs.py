"""`python -m loadtest.costs` measures what a request and a token cost each part of the stack, in CPU seconds of its own processes.

Four loads, each of answers of one kind: short, long, short behind a long question, short from passages. The differences between them are
the costs; what nobody asked for is taken off first. Two crowds that saturate the machine are measured beside, for a plan to be checked by.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from asyncio.subprocess import PIPE
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson
import psutil

from loadtest.bench.driver import Job
from loadtest.bench.headrace import LAPTOP, Headrace
from loadtest.bench.headrace import ONE_REPLICA as ALONE
from loadtest.bench.processes import Spent, Tree, busy_s, elapsed, obey_sigterm
from loadtest.bench.targets import Endpoint
from loadtest.bench.upstream import Pace, Upstream, simulated
from loadtest.setting import facts

SHORT, USUAL, LONG = 10, 50, 200
"""Words of an answer."""

MORE_WORDS = 900
"""Of a long question."""

STAGES = ("gateway", "embedder", "retriever", "router", "generator", "worker")


@dataclass(frozen=True, slots=True)
class Phase:
    """One load: answers of so many words to so many clients."""

    name: str
    model: str
    clients: int
    words: int
    more_words: int = 0


PHASES = (
    Phase("short", "headrace-direct", 24, SHORT),
    Phase("long", "headrace-direct", 90, LONG),
    Phase("prompt", "headrace-direct", 24, SHORT, MORE_WORDS),
    Phase("retrieval", "headrace", 16, SHORT),
)
"""Nearly as much as two cores can answer: what batches costs less then, and a plan is for busy stages."""
POINTS = (Phase("direct", "headrace-direct", 150, USUAL), Phase("grounded", "headrace", 60, USUAL))
"""More than two cores can answer."""


@dataclass(frozen=True, slots=True)
class Used:
    """CPU seconds of each part in one phase, and what was answered."""

    seconds: float
    answers: float
    """Tokens over the words of an answer: those that were under way count in part."""
    parts: Mapping[str, float]
    foreign: float
    """Cores that other processes used."""
    memory: Mapping[str, float]
    """Bytes, where the phase ended."""
    failures: int = 0

    def each(self, part: str, idle: float) -> float:
        """CPU seconds of one answer, what the part uses by itself (cores) taken off."""
        return max(self.parts.get(part, 0.0) - idle * self.seconds, 0.0) / max(self.answers, 1)


def part(process: psutil.Process) -> str:
    """The part of the stack that a process belongs to."""
    words = " ".join(process.cmdline())
    for stage in STAGES:
        if f"ray::ServeReplica:headrace:{stage}" in words:
            return stage
    if "haproxy" in words:
        return "edge"
    return "valkey" if "valkey.conf" in words else "ray"


class Meter:
    """Measures phases of a running stack."""

    def __init__(self, endpoint: Endpoint, upstream: Upstream, seconds: float) -> None:
        if endpoint.pid is None:
            raise ValueError("costs are measured from a process tree")
        self._endpoint, self._seconds, self._root = endpoint, seconds, endpoint.pid
        self._simulator = Tree(upstream.pid)

    def _sample(self) -> tuple[dict[str, dict[int, Spent]], dict[int, Spent], float]:
        parts: dict[str, dict[int, Spent]] = defaultdict(dict)
        spent = Tree(self._root).spent()
        for pid, used in spent.items():
            try:
                parts[part(psutil.Process(pid))][pid] = used
            except psutil.Error:
                continue
        return parts, self._simulator.spent(), busy_s()

    def _memory(self) -> dict[str, float]:
        sizes: dict[str, float] = defaultdict(float)
        root = psutil.Process(self._root)
        for process in (root, *root.children(recursive=True)):
            try:
                sizes[part(process)] += process.memory_full_info().pss
            except psutil.Error:
                continue
        return sizes

    async def idle(self) -> Used:
        """Nothing is asked."""
        before = self._sample()
        await asyncio.sleep(self._seconds)
        return self._used(before, self._sample(), self._seconds, 0.0, 0.0, 0)

    async def phase(self, phase: Phase) -> Used:
        """Run one load."""
        job = Job(
            self._endpoint.url,
            self._endpoint.key,
            phase.model,
            stream=True,
            clients=phase.clients,
            seconds=self._seconds,
            ramp_s=3.0,
            settle_s=2.0,
            max_tokens=phase.words,
            words=phase.words,
            more_words=phase.more_words,
        )
        command = [sys.executable, "-m", "loadtest.bench.driver", orjson.dumps(asdict(job)).decode()]
        process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, limit=2**26)
        if process.stdout is None:
            raise RuntimeError("the load generator has no stdout")
        samples: dict[str, Any] = {}
        result: dict[str, Any] = {}
        async for line in process.stdout:
            message = orjson.loads(line)
            if message["event"] == "result":
                result = message
            else:
                samples[message["event"]] = self._sample()
        if await process.wait() or not result:
            raise RuntimeError("the load generator failed")
        answers, failures = result["tokens"] / phase.words, sum(result["failures"].values())
        return self._used(samples["open"], samples["close"], result["window_s"], answers, result["cpu_share"], failures)

    def _used(self, before: Any, after: Any, seconds: float, answers: float, clients: float, failures: int) -> Used:
        parts = {name: elapsed(before[0].get(name, {}), spent) for name, spent in after[0].items()}
        parts["simulator"] = elapsed(before[1], after[1])
        parts["clients"] = clients * seconds
        foreign = (after[2] - before[2] - sum(parts.values())) / seconds
        return Used(seconds, answers, parts, foreign, self._memory(), failures)


def costs(idle: Used, used: Mapping[str, Used]) -> dict[str, dict[str, float]]:
    """Return what each part costs: cores by itself, CPU seconds a request, a retrieval, a prompt token and an output token, bytes."""
    found: dict[str, dict[str, float]] = {}
    for name in sorted({name for each in (idle, *used.values()) for name in each.parts}):
        alone = idle.parts.get(name, 0.0) / idle.seconds
        short, long = used["short"].each(name, alone), used["long"].each(name, alone)
        token = max(long - short, 0.0) / (LONG - SHORT)
        grown = used["long"].memory.get(name, 0.0) - used["short"].memory.get(name, 0.0)
        found[name] = {
            "idle_cores": round(alone, 4),
            "request_s": round(max(short - SHORT * token, 0.0), 7),
            "retrieval_s": round(max(used["retrieval"].each(name, alone) - short, 0.0), 7),
            "prompt_token_s": round(max(used["prompt"].each(name, alone) - short, 0.0) / MORE_WORDS, 9),
            "output_token_s": round(token, 8),
            "memory_bytes": round(used["short"].memory.get(name, 0.0)),
            "stream_bytes": round(max(grown, 0.0) / (PHASES[1].clients - PHASES[0].clients)),
        }
    return found


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure on a stack of its own, the starter corpus in its index."""
    obey_sigterm()
    setting = facts()
    with tempfile.TemporaryDirectory(prefix="hk-", ignore_cleanup_errors=True) as folder:
        target = Headrace(Path(folder), options.config, settings=ALONE)
        async with simulated(Pace(50, 20, LONG)) as upstream, target.running(upstream.url) as endpoint:
            meter = Meter(endpoint, upstream, options.seconds)
            await meter.phase(Phase("warm-up", "headrace", 8, SHORT))
            await asyncio.sleep(3)
            idle = await meter.idle()
            used = {phase.name: await _said(meter, phase) for phase in PHASES}
            points = [(phase, await _said(meter, phase)) for phase in POINTS]
    found = costs(idle, used)
    harness = {name: found.pop(name) for name in ("simulator", "clients")}
    foreign = max(each.foreign for each in (idle, *used.values(), *(each for _, each in points)))
    record = {"command": f"python -m loadtest.costs --seconds {options.seconds:g}", **setting, "foreign_cores": round(foreign, 2)}
    return {"record": record, "parts": found, "harness": harness, "points": [_point(*each) for each in points]}


async def _said(meter: Meter, phase: Phase) -> Used:
    used = await meter.phase(phase)
    busy = sum(used.parts.values()) / used.seconds
    cores = f"{busy:.2f} cores, others {used.foreign:.2f}"
    sys.stderr.write(f"{phase.name}: {used.answers / used.seconds:.1f} answers/s, {cores}, {used.failures} failures\n")
    return used


def _point(phase: Phase, used: Used) -> dict[str, Any]:
    rate = used.answers / used.seconds
    busy = sum(used.parts.values()) / used.seconds
    return {
        "retrieval": phase.model == "headrace",
        "streams": phase.clients,
        "output_tokens": phase.words,
        "answers_per_s": round(rate, 2),
        "busy_cores": round(busy, 2),
        "foreign_cores": round(used.foreign, 2),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and write the file that `headrace plan` reads."""
    parser = argparse.ArgumentParser("python -m loadtest.costs", description=__doc__)
    parser.add_argument("--seconds", type=float, default=12.0, help="of each phase")
    parser.add_argument("--out", type=Path, default=Path("reports/costs.json"))
    parser.add_argument("--config", default=LAPTOP, help="of the stack it starts")
    options = parser.parse_args(argv)
    found = asyncio.run(measure(options))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    sys.stdout.write(f"{options.out}\n")


if __name__ == "__main__":
    main()
