"""How many replicas a stage should have: what always holds, and what a recorded load makes of it."""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from ray.serve._private.config import DeploymentConfig

from deployments.core.config import Settings
from deployments.core.scaling import Scaling
from deployments.embedder.service import Embedder
from pipeline.policies import ONGOING, Policy, Seen, Signal, decide
from pipeline.scaling import policy, signals, stage

SETTINGS = Settings()
SCALINGS = {name: getattr(SETTINGS, name).scaling for name in ("gateway", "embedder", "retriever", "router", "generator", "worker")}
"""What each stage scales by where nothing is set."""


def signals_of(name: str) -> list[Signal]:
    return [Signal(*one) for one in signals(SCALINGS[name])]


@st.composite
def stages(draw: st.DrawFn) -> tuple[list[Signal], Seen]:
    """A stage and a moment of it; each replica reports every signal, or nothing yet."""
    named = signals_of(draw(st.sampled_from(sorted(SCALINGS))))
    low = draw(st.integers(0, 4))
    high = draw(st.integers(max(low, 1), 20))
    number = draw(st.integers(low, high))
    running = draw(st.integers(0, number))
    value = st.none() | st.floats(0, 1000)
    readings = {one.name: draw(st.lists(value, min_size=running, max_size=running)) for one in named}
    return named, Seen(number, running, low, high, readings)


@given(stages())
def test_the_number_stays_within_its_bounds_and_moves_by_bounded_steps(case: tuple[list[Signal], Seen]) -> None:
    named, seen = case
    wanted = decide(named, seen)
    assert seen.low <= wanted <= seen.high
    assert seen.number - 1 <= wanted <= max(2 * seen.number, 1, seen.low)


@given(stages(), st.data())
def test_more_of_a_signal_never_means_fewer_replicas(case: tuple[list[Signal], Seen], data: st.DataObject) -> None:
    named, seen = case
    name = data.draw(st.sampled_from([one.name for one in named]))
    more = [value if value is None else value + data.draw(st.floats(0, 1000)) for value in seen.readings[name]]
    assert decide(named, replace(seen, readings={**seen.readings, name: more})) >= decide(named, seen)


@given(stages())
def test_a_replica_that_has_not_reported_never_takes_one_away(case: tuple[list[Signal], Seen]) -> None:
    named, seen = case
    silent = {name: [None, *values[1:]] for name, values in seen.readings.items()}
    assert decide(named, replace(seen, readings=silent)) >= seen.number


@given(st.sampled_from(sorted(SCALINGS)), st.integers(1, 12), st.lists(st.floats(0, 20), min_size=3, max_size=3))
def test_a_constant_load_is_settled_upon_and_stays_so(name: str, number: int, times: list[float]) -> None:
    """The whole load is the same however many share it; what strains one replica does not ease either, which is the worst case."""
    named = signals_of(name)
    history = [number]
    for _ in range(40):
        share = {
            one.name: [times[place] * one.target / (number if one.kind in ("load", "keep") else 1)] * number
            for place, one in enumerate(named)
        }
        number = decide(named, Seen(number, number, 1, 12, share))
        history.append(number)
    moves = [later - earlier for earlier, later in itertools.pairwise(history) if later != earlier]
    assert history[-1] == history[-13], history
    assert all(move > 0 for move in moves) or all(move < 0 for move in moves), history


@given(st.lists(st.tuples(st.floats(0.1, 120), st.floats(0, 4000)), min_size=1, max_size=60))
def test_the_gateway_moves_once_in_its_window_at_most(load: list[tuple[float, float]]) -> None:
    pause_s = SCALINGS["gateway"].pause_s
    now_s, number, moved = 0.0, 2, list[float]()
    for step_s, sockets in load:
        now_s += step_s
        readings = {"sockets": [sockets / number] * number, "streams": [0.0] * number}
        rested_s = now_s - moved[-1] if moved else math.inf
        wanted = decide(signals_of("gateway"), Seen(number, number, 1, 8, readings, rested_s), pause_s)
        if wanted != number:
            moved.append(now_s)
        number = wanted
    assert all(later - earlier >= pause_s for earlier, later in itertools.pairwise(moved))


@pytest.mark.parametrize(
    ("name", "readings", "wanted"),
    [
        ("gateway", {"streams": [150, 150], "sockets": [0, 0]}, 2),
        ("gateway", {"streams": [0, 0], "sockets": [1500, 1500]}, 3),
        ("gateway", {"streams": [1, 1], "sockets": [30, 0]}, 1),
        ("embedder", {"queue_s": [0.6, 0.6], "busy": [1, 1]}, 3),
        ("embedder", {"queue_s": [0, 0], "busy": [0.9, 0.8]}, 2),
        ("embedder", {"queue_s": [0, 0], "busy": [0.3, 0.3]}, 1),
        ("retriever", {ONGOING: [25]}, 4),
        ("router", {ONGOING: [40]}, 2),
        ("router", {ONGOING: [20]}, 1),
        ("generator", {ONGOING: [300], "wait_s": [0, 0], "ttft_s": [1, 1]}, 3),
        ("generator", {ONGOING: [150], "wait_s": [0, 0.6], "ttft_s": [1, 1]}, 3),
        ("generator", {ONGOING: [150], "wait_s": [0, 0], "ttft_s": [1, 6]}, 3),
        ("generator", {ONGOING: [10], "wait_s": [0, 0], "ttft_s": [1, 6]}, 2),
        ("generator", {ONGOING: [10], "wait_s": [0, 0], "ttft_s": [1, 1]}, 1),
        ("worker", {"backlog": [40, 40], "age_s": [1, 1], "busy": [1, 1]}, 3),
        ("worker", {"backlog": [20, 20], "age_s": [12, 12], "busy": [1, 1]}, 3),
        ("worker", {"backlog": [0, 0], "age_s": [0, 0], "busy": [0.1, 0]}, 1),
        ("worker", {"backlog": [0, 0], "age_s": [0, 0], "busy": [1, 0]}, 2),
    ],
)
def test_two_replicas_become(name: str, readings: Mapping[str, Sequence[float]], wanted: int) -> None:
    assert decide(signals_of(name), Seen(2, 2, 1, 16, readings)) == wanted


def test_a_stage_of_which_nothing_runs_keeps_its_number() -> None:
    assert decide(signals_of("embedder"), Seen(3, 0, 1, 8, {"queue_s": [], "busy": []})) == 3


def test_strain_waits_for_the_replica_that_it_has_asked_for() -> None:
    strained = Seen(3, 2, 1, 8, {ONGOING: [200], "wait_s": [2, 2], "ttft_s": [1, 1]})
    assert decide(signals_of("generator"), strained) == 3


class TestServe:
    @pytest.mark.parametrize("name", sorted(SCALINGS))
    def test_takes_the_policy_of_each_stage_to_its_controller(self, name: str) -> None:
        sent = stage(Embedder, name, SCALINGS[name], 330)._deployment_config.to_proto_bytes()
        config = DeploymentConfig.from_proto_bytes(sent).autoscaling_config
        assert config
        arrived = config.policy.get_policy()(**config.policy.policy_kwargs)
        readings = {one.name: {"a": 100 * one.target, "b": 100 * one.target} for one in signals_of(name)}
        assert arrived(context(readings, ongoing=100_000.0)) == (4, {})

    def test_is_told_nothing_of_a_replica_that_has_not_reported(self) -> None:
        assert Policy([("sockets", 10, "load")])(context({"sockets": {"a": 0.0}})) == (2, {})
        assert Policy([("sockets", 10, "load")])(context({"sockets": {"a": 0.0, "b": 0.0}})) == (1, {})

    def test_has_the_times_of_the_last_moves_asked_for(self) -> None:
        many = {"sockets": {"a": 100.0, "b": 100.0}}
        slow = Policy([("sockets", 10, "load")], pause_s=300)
        assert slow(context(many, up=701.0)) == (2, {})
        assert slow(context(many, down=701.0)) == (2, {})
        assert slow(context(many, up=699.0, down=1.0)) == (4, {})

    def test_refuses_a_stage_of_which_nothing_is_known(self) -> None:
        with pytest.raises(TypeError, match="Scaling scales on"):
            policy(Scaling())


def context(
    reported: dict[str, dict[str, float]], ongoing: float = 0, up: float | None = None, down: float | None = None
) -> SimpleNamespace:
    """What Serve's controller hands to a policy, of two replicas at second 1000."""
    return SimpleNamespace(
        current_num_replicas=2,
        target_num_replicas=2,
        capacity_adjusted_min_replicas=1,
        capacity_adjusted_max_replicas=16,
        last_scale_up_time=up,
        last_scale_down_time=down,
        current_time=1000.0,
        running_replicas=["a", "b"],
        total_num_requests=ongoing,
        aggregated_metrics=reported,
    )


@pytest.mark.parametrize("name", sorted(SCALINGS))
def test_who_sets_one_value_of_a_stage_leaves_its_others_as_they_are(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"HEADRACE_{name.upper()}__SCALING__MAX_REPLICAS", "7")
    assert getattr(Settings(), name).scaling == SCALINGS[name].model_copy(update={"max_replicas": 7})


@pytest.mark.parametrize("name", ["gateway", "worker"])
def test_a_stage_that_alone_sees_its_load_is_never_without_a_replica(name: str) -> None:
    with pytest.raises(ValidationError, match="min_replicas"):
        type(SCALINGS[name])(min_replicas=0)


RECORDED = json.loads((Path(__file__).parent / "scaling_load.json").read_text())
"""What the stages of a running stack reported each second, while tests/integration/test_scaling.py loaded one after the other."""
UP_S, DOWN_S, HIGH = 3, 4, 2


def replay(named: Sequence[Signal], seconds: Sequence[Mapping[str, float]]) -> list[int]:
    """The number of replicas in each second, where the recorded load is shared by those there are; Serve's delays are kept."""
    numbers, number, since = [], 1, 0
    for second, load in enumerate(seconds):
        readings = {
            one.name: [load[one.name]]
            if one.name == ONGOING
            else [load[one.name] / (number if one.kind in ("load", "keep") else 1)] * number
            for one in named
        }
        wanted = decide(named, Seen(number, number, 1, HIGH, readings))
        if wanted == number:
            since = second + 1
        elif second + 1 - since >= (UP_S if wanted > number else DOWN_S):
            number, since = wanted, second + 1
        numbers.append(number)
    return numbers


@pytest.mark.parametrize("loaded", sorted(RECORDED))
def test_a_recorded_load_moves_the_stage_it_is_on_up_and_down_once_and_no_other(loaded: str) -> None:
    moved = {}
    for name, recorded in RECORDED[loaded].items():
        numbers = replay([Signal(*one) for one in recorded["signals"]], recorded["seconds"])
        peak = numbers.index(max(numbers))
        assert numbers == sorted(numbers[:peak]) + sorted(numbers[peak:], reverse=True)
        moved[name] = (numbers[0], max(numbers) > 1, numbers[-1])
    assert moved == {name: (1, name == loaded, 1) for name in SCALINGS}
