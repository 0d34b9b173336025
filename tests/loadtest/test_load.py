"""A scenario runs from the command line against something small, and its gates make the exit code."""

import asyncio
import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import Narrator, Served
from tests.house import House
from tests.loadtest.conftest import TOKENS, Simulator

pytestmark = pytest.mark.integration


def run(scenario: str, url: str, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Run a scenario for a few seconds, as `make load` does."""
    words = [scenario, "--host", url, "--out", str(out), *more]
    return subprocess.run([sys.executable, "-m", "loadtest.run", *words], capture_output=True, text=True, timeout=60, check=False)


def burst(simulator: Simulator, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Run a small burst against a simulator."""
    url = f"http://127.0.0.1:{simulator.port}"
    return run("burst", url, out, "--simulator", url, "--load-factor", "0.2", "--time-factor", "0.05", *more)


def sessions(url: str, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Run four long sessions with hardly a pause."""
    return run("long_session", url, out, "--load-factor", "0.02", "--time-factor", "0.05", "--turns", "12", "--upstream-tokens", "5", *more)


def rows(out: Path, scenario: str) -> list[dict[str, Any]]:
    """The raw rows of a run."""
    return [json.loads(line) for line in (out / scenario / "raw.jsonl").read_text().splitlines()]


def missed(out: Path, scenario: str) -> set[str]:
    """The gates that were missed, without those of time, which are a quiet machine's."""
    gates = json.loads((out / scenario / "summary.json").read_text())["gates"]
    return {
        gate["gate"] for gate in gates if not gate["met"] and "_ms" not in gate["gate"] and gate["gate"] not in ("goodput", "last_turn")
    }


def test_a_burst_reports_its_rows(simulator: Simulator, tmp_path: Path) -> None:
    done = burst(simulator, tmp_path, "--upstream-tokens", str(TOKENS))
    assert done.returncode in (0, 1), done.stderr
    folder = tmp_path / "burst"
    with (folder / "locust_stats.csv").open() as file:
        kinds = {line["Type"] for line in csv.DictReader(file)}
    assert {"TTFT", "ITL", "E2E"} <= kinds
    assert "<svg" in (folder / "report.html").read_text()
    summary = json.loads((folder / "summary.json").read_text())
    assert missed(tmp_path, "burst") == set()
    assert summary["peak_per_s"] > 0
    assert {"orphans", "ttft_ms p95", "goodput", "unfinished", "silent_failures"} <= {gate["gate"] for gate in summary["gates"]}
    found = rows(tmp_path, "burst")
    assert {row["stage"] for row in found} == {-1, 0, 1, 2}
    assert all(row["tokens"] == TOKENS and len(row["itl_ms"]) == TOKENS - 1 for row in found)


def test_requests_are_sent_when_they_are_due_though_none_is_answered(spawn: Callable[..., Simulator], tmp_path: Path) -> None:
    simulator = spawn("--ttft-ms", "2000", "--itl-ms", "1", "--tokens", "2", "--seed", "3")
    burst(simulator, tmp_path)
    load = [row for row in rows(tmp_path, "burst") if row["stage"] >= 0]
    assert len(load) > 20
    first = min(row["t_scheduled"] + row["ttft_ms"] / 1000 for row in load)
    assert sum(row["t_start"] < first for row in load) > 5
    assert all(row["ttft_ms"] >= 1000 * (row["t_start"] - row["t_scheduled"]) + 1900 for row in load)


def test_a_cut_answer_fails_the_run(spawn: Callable[..., Simulator], tmp_path: Path) -> None:
    simulator = spawn("--ttft-ms", "1", "--itl-ms", "1", "--tokens", "9", "--cut", "0.2", "--seed", "3")
    done = burst(simulator, tmp_path)
    assert done.returncode == 1
    assert missed(tmp_path, "burst") == {"success_ratio", "unfinished"}
    assert "MISSED unfinished" in done.stderr
    assert {row["error_code"] for row in rows(tmp_path, "burst")} == {None, "HTTPParseError"}


def test_answers_that_never_end_fail_the_run(spawn: Callable[..., Simulator], tmp_path: Path) -> None:
    simulator = spawn("--ttft-ms", "1", "--itl-ms", "1", "--tokens", "9", "--stall", "0.2", "--seed", "3")
    assert burst(simulator, tmp_path).returncode == 1
    assert {"unfinished", "success_ratio"} <= missed(tmp_path, "burst")
    assert "never ended" in {row["error_code"] for row in rows(tmp_path, "burst")}


def test_answers_that_are_shorter_than_they_should_be_fail_the_run(simulator: Simulator, tmp_path: Path) -> None:
    assert burst(simulator, tmp_path, "--upstream-tokens", str(TOKENS + 5)).returncode == 1
    assert "sequence_gaps" in missed(tmp_path, "burst")


async def test_sessions_of_the_product_break_off_and_go_on_over_both_transports(house: House, tmp_path: Path) -> None:
    house.flow.pieces, house.flow.pause_s = [f"w{word} " for word in range(5)], 0.01
    (tmp_path / "demo.key").write_text(house.key)
    done = await asyncio.to_thread(sessions, house.url, tmp_path, "--key-file", str(tmp_path / "demo.key"))
    assert done.returncode in (0, 1), done.stderr
    found = rows(tmp_path, "long_session")
    assert len(found) == 4 * 12
    assert [row for row in found if row["tokens"] != 5 or row["error_code"]] == []
    broken = [row for row in found if row["resumes"]]
    assert {row["transport"] for row in broken} == {"sse", "websocket"}
    assert all(row["resume_ms"] for row in broken)
    assert missed(tmp_path, "long_session") == set()


def test_an_event_that_is_lost_between_two_connections_fails_the_run(tmp_path: Path) -> None:
    with Narrator(words=5, skips=5).running() as url:
        done = sessions(url, tmp_path)
    assert done.returncode == 1
    assert {"lost_events", "sequence_gaps"} <= missed(tmp_path, "long_session")


def test_pages_are_uploaded_and_searched_for(tmp_path: Path) -> None:
    (tmp_path / "served").mkdir()
    with Served(tmp_path / "served").running() as served:
        (tmp_path / "a.key").write_text(served.key)
        done = run("ingest", served.url, tmp_path, "--time-factor", "0.05", "--key-file", str(tmp_path / "a.key"))
    assert done.returncode in (0, 1), done.stderr
    assert missed(tmp_path, "ingest") == set()
    found = rows(tmp_path, "ingest")
    assert {row["kind"] for row in found} == {"upload", "search"}
    assert {row["error_code"] for row in found} == {None}


def test_a_trace_is_asked_as_it_was_recorded(simulator: Simulator, tmp_path: Path) -> None:
    (tmp_path / "trace_azure2023").mkdir()
    lines = [f"2023-11-16 18:15:{at:02d}.0000000,{40 * at + 40},{4 * at + 4}" for at in range(5)]
    trace = tmp_path / "trace_azure2023" / "AzureLLMInferenceTrace_conv.csv"
    trace.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *lines]))
    run("trace", f"http://127.0.0.1:{simulator.port}", tmp_path, "--time-factor", "0.03", "--data", str(tmp_path))
    found = sorted(rows(tmp_path, "trace"), key=lambda row: row["t_scheduled"])
    assert [row["tokens"] for row in found] == [1, 2, 3, 4, 5]
    assert [round(row["t_scheduled"] - found[0]["t_scheduled"], 3) for row in found] == [0, 1, 2, 3, 4]
