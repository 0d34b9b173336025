"""The cluster of cluster.yaml as two raylets on this machine, with production.yaml, PostgreSQL and Redis: changed and killed under load.

One machine has one port 8000, so there is one proxy, on the head; what else two machines would not share is in nodes.py.
"""

import asyncio
import copy
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import Postgres, Server, redis_program
from tests.embedder.conftest import furnish
from tests.integration.nodes import Nodes, production, wait
from tests.integration.visitors import Diary, Visitors
from tests.loadtest.conftest import Simulator

pytestmark = [pytest.mark.integration, pytest.mark.full, pytest.mark.timeout(1800)]

WORDS = [f"w{i}" for i in range(30)]
STAGES = ("gateway", "embedder", "retriever", "router", "generator", "worker")
ONE: dict[str, int] = dict.fromkeys(STAGES, 1)
TWO: dict[str, int] = dict.fromkeys(STAGES, 2)
CALM_S = 3.0
"""Load runs so long before something happens, and again after it is over."""
WATCHED_S = 20.0
"""Load runs so long on what is left of a cluster."""


@pytest.fixture(scope="module")
def nodes(postgres: Postgres, spawn: Callable[..., Simulator]) -> Iterator[Nodes]:
    """Both nodes, with one replica of each stage between them."""
    program = redis_program()
    folder = Path(tempfile.mkdtemp(prefix="hr-"))
    redis = Server(folder, program)
    redis.start()
    model = spawn("--ttft-ms", "50", "--itl-ms", "100", "--tokens", str(len(WORDS)))
    (folder / "data").mkdir()
    furnish(folder / "data")
    secrets = {"HEADRACE_SQL_URL": postgres.empty(), "HEADRACE_VALKEY_URL": redis.url, "HEADRACE_PEPPER": "a pepper of this test"}
    started = Nodes(folder, secrets | {"HEADRACE_GENERATOR__API_KEY": "any"})
    try:
        started.start()
        started.deploy(production(started, ONE, generator={"base_url": model.url, "model": "sim"}))
        yield started
    finally:
        left = started.end()
        redis.kill()
        shutil.rmtree(folder, ignore_errors=True)
    assert left == []


def prepare(nodes: Nodes, counts: dict[str, int]) -> None:
    """See that both nodes are up, and that so many replicas run."""
    if not nodes.worker.processes():
        nodes.worker.start()
    resized = copy.deepcopy(nodes.config)
    for deployment in resized["applications"][0]["deployments"]:
        deployment["autoscaling_config"] |= dict.fromkeys(("min_replicas", "max_replicas"), counts[deployment["name"]])
    if resized != nodes.config:
        nodes.deploy(resized)
    wait(lambda: nodes.running() == counts and nodes.ready(), "every replica")
    nodes.note()


def visit(nodes: Nodes) -> Visitors:
    return Visitors(nodes.url, nodes.key, WORDS)


def lighter(config: dict[str, Any]) -> dict[str, Any]:
    """The config with other values for what needs no new replica."""
    another = copy.deepcopy(config)
    for deployment in another["applications"][0]["deployments"]:
        deployment["max_ongoing_requests"] += 1
        deployment["autoscaling_config"]["target_ongoing_requests"] += 1
    return another


def renewed(config: dict[str, Any]) -> dict[str, Any]:
    """The config with what stands for new code: every replica is another afterwards."""
    another = copy.deepcopy(config)
    environment = another["applications"][0].setdefault("runtime_env", {}).setdefault("env_vars", {})
    environment["RELEASE"] = str(int(environment.get("RELEASE", "0")) + 1)
    return another


def unharmed(diary: Diary) -> None:
    """No request failed, and every answer is whole or was resumed to its end."""
    fine = {f"{kind} {end}" for kind in ("chat", "body", "response", "socket") for end in ("whole", "resumed")}
    assert set(diary.ends) <= fine, str(diary)


async def test_a_light_change_comes_without_a_failed_request_or_a_new_replica(nodes: Nodes) -> None:
    await asyncio.to_thread(prepare, nodes, ONE)
    before = nodes.pids()
    async with visit(nodes).asking() as diary:
        await asyncio.sleep(CALM_S)
        await asyncio.to_thread(nodes.deploy, lighter(nodes.config))
        await asyncio.to_thread(wait, lambda: nodes.status()["status"] == "RUNNING", "the change")
        await asyncio.sleep(CALM_S)
    print(f"\na light change: {diary}")  # noqa: T201
    unharmed(diary)
    assert nodes.pids() == before


@pytest.mark.parametrize("count", [10])
async def test_new_code_comes_without_a_failed_request(nodes: Nodes, count: int) -> None:
    """With one replica of each stage, the harder case: without a surge there would be none in between."""
    await asyncio.to_thread(prepare, nodes, ONE)
    for number in range(count):
        before = nodes.pids()
        async with visit(nodes).asking() as diary:
            await asyncio.sleep(CALM_S)
            begun = time.monotonic()
            await asyncio.to_thread(nodes.deploy, renewed(nodes.config))
            await asyncio.to_thread(wait, lambda old=before: not any(map(psutil.pid_exists, old)), "the end of the old replicas")
            await asyncio.to_thread(wait, lambda: nodes.running() == ONE, "every new replica")
            took_s = time.monotonic() - begun
            await asyncio.sleep(CALM_S)
        print(f"\nnew code, {number + 1} of {count}, within {took_s:.0f} s: {diary}")  # noqa: T201
        unharmed(diary)
        assert set(diary.closings) <= {1012}


async def test_a_node_that_dies_truncates_no_answer_and_loses_none_that_outlives_its_connection(nodes: Nodes) -> None:
    await asyncio.to_thread(prepare, nodes, TWO)
    async with visit(nodes).asking() as diary:
        await asyncio.sleep(CALM_S)
        killed = time.monotonic()
        await asyncio.to_thread(nodes.worker.kill)
        await asyncio.sleep(WATCHED_S)
        returned = time.monotonic()
        await asyncio.to_thread(prepare, nodes, TWO)
        whole_s = time.monotonic() - returned
        await asyncio.sleep(CALM_S)
    lost = f"the last request that was lost began {diary.recovery(killed):.1f} s later"
    print(f"\na node killed: {lost}; {whole_s:.0f} s from its return to all replicas: {diary}")  # noqa: T201
    ends = diary.ends
    assert not {"truncated", "unfinished"} & set(ends), str(diary)
    assert ends["response resumed"] + ends["response whole"] > 0
    assert ends["socket whole"] + ends["socket resumed"] > 0
