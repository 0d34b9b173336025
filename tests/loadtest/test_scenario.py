"""Every scenario in the folder can be run, and its stages follow one another."""

import pytest
from pydantic import ValidationError

from loadtest.run import arguments, command
from loadtest.scenario import Scenario, Stage, load, names, scaled, stage_at

STAGES = (Stage(seconds=10, users=4, rate=2), Stage(seconds=5, users=60, rate=30))


@pytest.mark.parametrize("name", names())
def test_each_scenario_loads_and_has_gates(name: str) -> None:
    gates = load(name).gates
    assert gates.ttft_ms.p95
    assert gates.itl_ms.p99
    assert gates.e2e_ms.p95


def test_the_scenarios_asked_for_are_there() -> None:
    assert {"burst", "long_session"} <= set(names())


def test_an_unknown_gate_is_refused() -> None:
    fields = load("burst").model_dump()
    fields["gates"]["tfft_ms"] = {"p50": 1}
    with pytest.raises(ValidationError, match="tfft_ms"):
        Scenario.model_validate(fields)


@pytest.mark.parametrize(("second", "users"), [(0, 4), (9.9, 4), (10, 60), (14.9, 60)])
def test_stages_follow_one_another(second: float, users: int) -> None:
    stage = stage_at(STAGES, second)
    assert stage is not None
    assert stage.users == users


def test_after_the_last_stage_the_run_is_over() -> None:
    assert stage_at(STAGES, 15) is None


def test_a_scenario_can_be_made_smaller() -> None:
    small = scaled(load("burst"), 0.1, 0.5)
    assert [(stage.seconds, stage.users) for stage in small] == [(15, 1), (30, 2), (45, 1)]


def test_the_command_names_reports_and_keys(tmp_path) -> None:
    words = ["burst", "--host", "http://127.0.0.1:8000", "--key-file", "a.key", "--key-file", "b.key", "--out", str(tmp_path)]
    built = command(arguments("test", None).parse_args(words))
    assert f"--html={tmp_path}/burst/report.html" in built
    assert built[-2:] == ["--key-file=a.key", "--key-file=b.key"]
