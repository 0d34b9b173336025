"""What a running stack measures, as those see it who operate it."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from deployments.core.config import environment
from deployments.core.telemetry import METRICS
from tests.dashboard import OPS, RAYS
from tests.integration.conftest import Stack

pytestmark = [pytest.mark.integration, pytest.mark.full]

RARE = {
    "headrace_client_retries_total",
    "headrace_socket_closes_total",
    "headrace_stream_aborts_total",
    "headrace_stream_resumes_total",
    "headrace_stream_replayed_events_total",
    "headrace_retrieval_empty_total",
    "headrace_unanswered_total",
    "headrace_fallbacks_total",
    "headrace_hedges_total",
    "headrace_tool_calls_total",
}
"""Told of only once something happens that plain questions do not bring about."""


HEALTHY = "ray_serve_deployment_replica_healthy"


def ask(stack: Stack) -> None:
    with stack.http() as http:
        body = {"model": "headrace", "messages": [{"role": "user", "content": "What is a headrace?"}], "stream": True}
        assert "[DONE]" in http.post("/v1/chat/completions", json=body).text


def eventually(look: Callable[[], Any], within_s: float = 60) -> Any:
    """What a look gives once it gives something."""
    until = time.monotonic() + within_s
    while not (found := look()):
        assert time.monotonic() < until
        time.sleep(0.2)
    return found


def test_top_shows_every_stage_and_the_answers(stack: Stack) -> None:
    ask(stack)
    key = (stack.data_dir / "admin.key").read_text().strip()
    command = [sys.executable, "-m", "pipeline.cli", "top", "--once", "--json", "--url", stack.url, "--key", key]

    def look() -> Any:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        seen = json.loads(done.stdout)
        return seen if seen["answers"]["ended"] else None

    seen = eventually(look)
    assert {one["stage"] for one in seen["stages"]} == {"gateway", "embedder", "retriever", "router", "generator", "worker"}
    assert all(one["running"] == one["target"] >= 1 for one in seen["stages"])
    assert seen["answers"]["first_p50_ms"] > 0
    assert seen["answers"]["tokens_per_s"] > 0
    assert seen["queue"]["limit"] > 0


def test_prometheus_has_what_is_measured_by_its_name(stack: Stack, tmp_path: Path) -> None:
    shutil.which("prometheus") or pytest.skip("there is no Prometheus: apt install prometheus")
    (tmp_path / "mill.md").write_text("# Mills\n\nA headrace is the channel that brings water to the wheel.\n")
    report = stack.headrace("ingest", str(tmp_path))
    assert report.returncode == 0, report.stdout + report.stderr
    environ = environment(HEADRACE_DATA_DIR=str(stack.data_dir))
    command = [sys.executable, "-m", "pipeline.observe"]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[1]
            ask(stack)
            expect(url)
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    assert not list((stack.data_dir / "observe").glob("*.pid"))


def expect(url: str) -> None:
    """Wait until the metrics are there, under the names that rules and dashboard use; then look at the rules."""

    def asked(path: str, **query: str) -> Any:
        try:
            return httpx2.get(f"{url}/api/v1/{path}", params=query).json()["data"]
        except (httpx2.HTTPError, ValueError):  # it is still beginning
            return []

    def missing() -> list[str]:
        held = set(asked("label/__name__/values"))
        return sorted({one.name for one in METRICS if not {one.name, f"{one.name}_bucket"} & held} - RARE)

    try:
        eventually(lambda: not missing(), 90)
    except AssertionError:
        pytest.fail(f"did not come: {missing()}")
    names = asked("label/__name__/values")
    assert not [one for one in names if one.startswith(("ray_headrace", "ray_gen_ai"))]
    assert set(asked("label/le/values", **{"match[]": "gen_ai_server_time_to_first_token_seconds_bucket"})) >= {"1.0"}
    assert {one["metric"]["deployment"] for one in asked("query", query=HEALTHY)["result"]} >= {"gateway", "generator"}
    assert set(names) >= RAYS
    groups = asked("rules")["groups"]
    assert {one["file"].rsplit("/", 1)[1] for one in groups} == {path.name for path in (OPS / "prometheus" / "rules").glob("*.yml")}
    assert not [rule for group in groups for rule in group["rules"] if rule["health"] == "err"]
