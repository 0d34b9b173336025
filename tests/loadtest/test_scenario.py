"""Every scenario in the folder can be run and is judged, and what does not fit together is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from loadtest.run import arguments, command, parsed
from loadtest.scenario import Gates, Peak, Scenario, load, names, scaled
from loadtest.slo import Beside, judge
from tests.loadtest.test_slo import GOOD

ASKED_FOR = {"burst", "long_session", "rag", "ingest", "mixed", "trace", "overload", "soak"}

STAGED = {"about": "", "user": "Arrivals", "stages": [{"seconds": 10, "per_s": 5}], "gates": {}}


def test_the_scenarios_asked_for_are_there() -> None:
    assert set(names()) == ASKED_FOR


@pytest.mark.parametrize("name", names())
def test_each_scenario_has_gates_that_the_judge_knows(name: str) -> None:
    scenario = load(name)
    rows = [replace(GOOD, kind=kind, stage=stage) for kind in ("chat", "search", "upload", "embeddings") for stage in (-1, 0)]
    told = {verdict.gate.split(" ")[0] for verdict in judge(rows, scenario, Beside(0, 0.0, True))}
    fields = yaml.safe_load((Path("loadtest/scenarios") / f"{name}.yaml").read_text())["gates"]
    assert {gate for gate in fields if gate != "kind_ms"} | set(fields.get("kind_ms", {})) <= told
    assert fields


def test_an_unknown_gate_is_refused() -> None:
    fields = load("burst").model_dump()
    fields["gates"]["tfft_ms"] = {"p50": 1}
    with pytest.raises(ValidationError, match="tfft_ms"):
        Scenario.model_validate(fields)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"stages": [{"seconds": 10}]}, "a stage has one of"),
        ({"stages": [{"seconds": 10, "per_s": 5, "sessions": 5}]}, "a stage has one of"),
        ({"stages": [{"seconds": 10, "sessions": 5}]}, "sessions are for"),
        ({"user": "Session"}, "sessions are for"),
        ({"stages": [{"seconds": 10, "times_peak": 10}]}, "needs `peak`"),
        ({"gates": {"goodput": 0.85}}, "needs `peak`"),
        ({"mix": {"dance": 1}}, "mix"),
    ],
)
def test_what_does_not_fit_together_is_refused(change: dict[str, Any], why: str) -> None:
    Scenario.model_validate(STAGED)
    with pytest.raises(ValidationError, match=why):
        Scenario.model_validate(STAGED | change)


def test_a_scenario_can_be_made_smaller() -> None:
    small = scaled(load("burst"), 0.1, 0.5)
    whole = load("burst")
    assert [(stage.seconds, stage.per_s) for stage in small.stages] == [(stage.seconds / 2, stage.per_s / 10) for stage in whole.stages]
    assert whole.peak
    assert small.peak == Peak(at_once=whole.peak.at_once, seconds=whole.peak.seconds / 2, warm_s=whole.peak.warm_s / 2)
    assert scaled(load("long_session"), 1, 1, turns=3).turns == 3
    held = scaled(load("long_session"), 0.001, 0.1)
    assert (held.stages[0].sessions, held.turns, held.pace_s) == (1, 50, pytest.approx(load("long_session").pace_s / 10))


def test_the_gates_of_the_burst_are_those_that_were_promised() -> None:
    scenario, gates = load("burst"), load("burst").gates
    assert [stage.per_s for stage in scenario.stages] == [5, 50, 5]
    assert scenario.stages[1].seconds == 60
    assert gates.ttft_ms.p95 == scenario.upstream.ttft_ms + 1000
    assert (gates.goodput, gates.unfinished, gates.silent_failures, gates.refusals_without_retry_after) == (0.85, 0, 0, 0)


def test_the_long_session_is_as_long_as_was_promised() -> None:
    scenario = load("long_session")
    assert (scenario.stages[0].sessions, scenario.turns, scenario.reconnects) == (200, 50, 0.1)
    assert (scenario.gates.lost_events, scenario.gates.memory_mib_per_10min) == (0, 1)


def test_counts_are_judged_even_where_a_scenario_is_silent() -> None:
    gates = Gates()
    assert (gates.unfinished, gates.silent_failures, gates.sequence_gaps, gates.lost_events, gates.orphans) == (0, 0, 0, 0, 0)


def test_the_command_names_reports_and_keys(tmp_path: Path) -> None:
    words = ["burst", "--host", "http://127.0.0.1:8000", "--key-file", "a.key", "--key-file", "b.key", "--out", str(tmp_path)]
    built = command(parsed(arguments("test", None), words))
    assert f"--journal={tmp_path}/burst/raw.jsonl" in built
    assert built[-2:] == ["--key-file=a.key", "--key-file=b.key"]


def test_the_demo_key_does_not_leave_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".headrace").mkdir()
    (tmp_path / ".headrace" / "demo.key").write_text("secret")
    there = command(parsed(arguments("test", None), ["burst", "--host", "https://example.com"]))
    here = command(parsed(arguments("test", None), ["burst", "--host", "http://127.0.0.1:8000"]))
    assert not any(word.startswith("--key-file") for word in there)
    assert here[-1] == "--key-file=.headrace/demo.key"


def test_an_unknown_scenario_is_told_which_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed(arguments("test", "x"), ["bursd"])
    said = capsys.readouterr().err
    assert all(name in said for name in names())


def test_a_trace_without_its_data_says_what_it_needs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for data in ([], ["--data", str(tmp_path)]):
        with pytest.raises(SystemExit):
            parsed(arguments("test", "x"), ["trace", *data])
        assert "make load DATA=FOLDER" in capsys.readouterr().err
