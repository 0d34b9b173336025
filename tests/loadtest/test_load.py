"""A scenario runs from the command line against the simulator, and its gates make the exit code."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.loadtest.conftest import Simulator


def load(scenario: str, simulator: Simulator, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Run a scenario for a few seconds, as `make load` does."""
    url = f"http://127.0.0.1:{simulator.port}"
    words = [scenario, "--host", url, "--simulator", url, "--out", str(out), "--users-factor", "0.1", *more]
    return subprocess.run([sys.executable, "-m", "loadtest.run", *words], capture_output=True, text=True, timeout=60, check=False)


def rows(out: Path, scenario: str) -> list[dict[str, object]]:
    """The raw rows of a run."""
    return [json.loads(line) for line in (out / scenario / "raw.jsonl").read_text().splitlines()]


@pytest.mark.integration
def test_a_burst_reports_its_rows_and_meets_its_gates(simulator: Simulator, tmp_path: Path) -> None:
    done = load("burst", simulator, tmp_path, "--time-factor", "0.02")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "burst"
    with (folder / "locust_stats.csv").open() as file:
        kinds = {line["Type"] for line in csv.DictReader(file)}
    assert {"TTFT", "ITL", "E2E"} <= kinds
    assert "<html" in (folder / "report.html").read_text()
    summary = json.loads((folder / "summary.json").read_text())
    assert all(gate["met"] for gate in summary["gates"])
    assert {"orphans", "ttft_ms p95", "sequence_gaps"} <= {gate["gate"] for gate in summary["gates"]}
    found = rows(tmp_path, "burst")
    assert found
    assert all(row["tokens"] == 20 and len(row["itl_ms"]) == 19 for row in found)


@pytest.mark.integration
def test_a_session_grows_turn_by_turn(simulator: Simulator, tmp_path: Path) -> None:
    assert load("long_session", simulator, tmp_path, "--time-factor", "0.04").returncode == 0
    turns = {row["turn"] for row in rows(tmp_path, "long_session")}
    assert {0, 1} <= turns


@pytest.mark.integration
def test_a_missed_gate_fails_the_run(spawn: Callable[..., Simulator], tmp_path: Path) -> None:
    simulator = spawn("--ttft-ms", "1", "--itl-ms", "1", "--tokens", "9", "--cut", "0.5", "--seed", "3")
    done = load("burst", simulator, tmp_path, "--time-factor", "0.02")
    assert done.returncode == 1
    assert "MISSED success_ratio" in done.stderr
    assert {row["error_code"] for row in rows(tmp_path, "burst")} == {None, "HTTPParseError"}
