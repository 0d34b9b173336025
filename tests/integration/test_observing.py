"""What a running stack measures, as those see it who operate it."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from deployments.core.telemetry import METRICS
from tests.dashboard import OPS
from tests.integration.conftest import Stack

pytestmark = pytest.mark.integration

RARE = {
    "headrace_client_retries_total", "headrace_socket_closes_total", "headrace_stream_aborts_total", "headrace_stream_resumes_total",
    "headrace_stream_replayed_events_total", "headrace_admission_wait_seconds", "headrace_retrieval_empty_total", "headrace_retrieval_score",
    "headrace_unanswered_total", "headrace_fallbacks_total", "headrace_hedges_total", "headrace_tool_calls_total",
    "headrace_jobs_total", "headrace_job_duration_seconds", "headrace_backend_breaker_state", "headrace_backend_calls",
}  # fmt: skip
"""Told of only once something happens that plain questions do not bring about."""


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


def test_prometheus_has_what_is_measured_by_its_name(stack: Stack) -> None:
    pytest.importorskip("shutil").which("prometheus") or pytest.skip("there is no Prometheus: apt install prometheus")
    command = [sys.executable, "-m", "pipeline.observe"]
    environ = {"HEADRACE_DATA_DIR": str(stack.data_dir)}
    process = subprocess.Popen(["env", *(f"{k}={v}" for k, v in environ.items()), *command], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split()[1].removesuffix("/graph")
        ask(stack)

        def names() -> set[str]:
            try:
                return set(httpx2.get(f"{url}/api/v1/label/__name__/values").json()["data"])
            except httpx2.HTTPError:
                return set()

        def missing() -> set[str]:
            held = names()
            return {one.name for one in METRICS if not {one.name, f"{one.name}_bucket"} & held} - RARE

        try:
            eventually(lambda: not missing(), 90)
        except AssertionError:
            pytest.fail(
                f"did not come: {sorted(missing())}; came: {sorted(one for one in names() if 'headrace' in one or 'gen_ai' in one)}"
            )
        assert not [one for one in names() if one.startswith(("ray_headrace", "ray_gen_ai"))]
        rules = httpx2.get(f"{url}/api/v1/rules").json()["data"]["groups"]
        assert {one["file"].rsplit("/", 1)[1] for one in rules} == {path.name for path in (OPS / "prometheus" / "rules").glob("*.yml")}
        assert all(rule["health"] != "err" for group in rules for rule in group["rules"])
        dump = httpx2.get(f"{url}/api/v1/query", params={"query": "ray_serve_autoscaling_target_replicas"}).json()["data"]["result"]
        assert {one["metric"]["deployment"] for one in dump} >= {"gateway", "generator"}
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    assert not list((stack.data_dir / "observe").glob("*.pid"))
