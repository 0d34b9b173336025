"""A plan is a sum over measured costs; it grows with the load and stays within what one process can do."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from deployments.core.config import Generator, Settings
from pipeline.cli.app import app
from pipeline.planning.costs import STAGES, Cost, Costs, Point, read
from pipeline.planning.plan import Demand, checked, sized

SETTINGS = Settings(generator=Generator(base_url="http://127.0.0.1:9/v1"))


def cost(request_s: float = 0.0, token_s: float = 0.0, retrieval_s: float = 0.0) -> Cost:
    return Cost(
        idle_cores=0,
        request_s=request_s,
        retrieval_s=retrieval_s,
        prompt_token_s=0,
        output_token_s=token_s,
        memory_bytes=100,
        stream_bytes=1,
    )


def costs(**parts: Cost) -> Costs:
    known = dict.fromkeys((*STAGES, "edge", "valkey", "ray"), cost()) | parts
    point = Point(retrieval=False, streams=10, output_tokens=10, answers_per_s=40, busy_cores=2, foreign_cores=0)
    return Costs(record={}, parts=known, harness={"clients": cost(0.02)}, points=(point,))


def demand(**fields: float) -> Demand:
    return Demand(**{"requests_per_s": 10, "streams": 50, "output_tokens": 100, "headroom": 0.5} | fields)


def replicas(found: Demand, known: Costs, settings: Settings = SETTINGS) -> dict[str, int]:
    return {need.part: need.replicas for need in sized(found, known, settings).needs}


def test_a_stage_has_a_replica_for_each_core_it_fills_and_its_headroom() -> None:
    known = costs(gateway=cost(0.1, 0.001))  # 10 * (0.1 + 100 * 0.001) = 2 cores
    found = sized(demand(), known, SETTINGS)
    gateway = next(need for need in found.needs if need.part == "gateway")
    assert (gateway.replicas, gateway.cores, gateway.reason) == (3, pytest.approx(2.0), "CPU")
    assert found.cores == 3
    assert found.slots == 75


def test_streams_decide_where_they_are_many_and_cost_little() -> None:
    found = replicas(demand(streams=10_000), costs())
    assert (found["gateway"], found["generator"], found["router"]) == (17, 118, 1)


def test_retrieval_is_counted_only_where_it_is_asked_for() -> None:
    known = costs(embedder=cost(retrieval_s=0.3))
    assert replicas(demand(), known)["embedder"] == 5
    assert replicas(Demand(10, 50, retrieval=False), known)["embedder"] == 1


def test_of_valkey_there_is_one_and_the_plan_says_when_that_is_too_little() -> None:
    for request_s, reason in ((0.05, "one to a node"), (1.0, "more than one Valkey can do")):
        valkey = next(need for need in sized(demand(), costs(valkey=cost(request_s)), SETTINGS).needs if need.part == "valkey")
        assert (valkey.replicas, valkey.reason) == (1, reason)


@given(st.floats(0.1, 1000), st.floats(1, 10_000), st.floats(1.1, 5))
def test_more_load_never_needs_less(rate: float, streams: float, times: float) -> None:
    known = costs(gateway=cost(0.01, 0.0001), generator=cost(0.02))
    less, more = (sized(Demand(rate * factor, streams * factor), known, SETTINGS) for factor in (1, times))
    assert more.cores >= less.cores
    assert more.memory_bytes >= less.memory_bytes
    assert all(a.replicas <= b.replicas for a, b in zip(less.needs, more.needs, strict=True))


def test_a_machine_is_full_when_all_its_cores_are_or_one_process_fills_its_own() -> None:
    shared = checked(costs(gateway=cost(0.01), generator=cost(0.01)), 2)[0]  # with the clients' 0.02: 0.04 s a request
    assert (shared.predicted_per_s, shared.error) == (pytest.approx(50), pytest.approx(0.25))
    alone = checked(costs(gateway=cost(0.04)), 8)[0]
    assert alone.predicted_per_s == pytest.approx(25)


def test_the_shipped_costs_are_read_and_predict_what_was_measured_beside_them() -> None:
    known = read()
    assert {*STAGES, "edge", "valkey", "ray"} == set(known.parts)
    assert known.points
    assert {"command", "started", "cores", "machine"} <= set(known.record)
    assert all(abs(check.error) < 0.5 for check in checked(known, known.record["cores"]))


def test_the_command_prints_a_plan_and_the_same_as_json() -> None:
    words = ["plan", "--requests-per-s", "20", "--output-tokens", "100", "--no-retrieval"]
    shown, document = CliRunner().invoke(app, words), json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert shown.exit_code == 0
    assert "slots of model backends" in shown.stdout
    assert document["plan"]["slots"] == 58  # 20 * (0.2 + 100 * 0.02) s * 1.3
    assert document["demand"]["retrieval"] is False


def test_the_command_wants_a_load() -> None:
    assert CliRunner().invoke(app, ["plan"]).exit_code == 1
