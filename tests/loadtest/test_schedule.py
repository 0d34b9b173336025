"""Arrivals are fixed before the first request, come at the rates that are asked for, and are the same for the same seed."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.scenario import Gates, Peak, Replay, Scenario, Stage
from loadtest.schedule import PROMPT_TOKENS, arrivals, offered, poisson, replayed

STAGES = st.lists(st.builds(Stage, seconds=st.floats(0.1, 30), per_s=st.floats(0.1, 50)), min_size=1, max_size=4)

TRACE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.6805900,39600,109
2023-11-16 18:15:56.6805900,10,1
"""


@given(STAGES, st.integers(0, 100))
def test_arrivals_are_in_order_and_within_their_stages(stages: list[Stage], seed: int) -> None:
    found = list(poisson(stages, 0.0, {"chat": 1}, seed))
    begins = [sum(stage.seconds for stage in stages[:number]) for number in range(len(stages) + 1)]
    assert all(earlier.due_s <= later.due_s for earlier, later in pairwise(found))
    assert all(begins[each.stage] <= each.due_s < begins[each.stage + 1] for each in found)
    assert found == list(poisson(stages, 0.0, {"chat": 1}, seed))


def test_arrivals_come_at_the_rate_and_at_random() -> None:
    found = [each.due_s for each in poisson([Stage(seconds=1000, per_s=20)], 0.0, {"chat": 1}, 1)]
    gaps = [later - earlier for earlier, later in pairwise(found)]
    mean = sum(gaps) / len(gaps)
    assert len(found) == pytest.approx(20_000, rel=0.03)
    assert sum((gap - mean) ** 2 for gap in gaps) / len(gaps) == pytest.approx(mean**2, rel=0.1)  # that of an exponential


def test_another_seed_gives_other_times() -> None:
    one, other = (list(poisson([Stage(seconds=10, per_s=5)], 0.0, {"chat": 1}, seed)) for seed in (1, 2))
    assert one != other


def test_kinds_are_mixed_by_weight() -> None:
    kinds = Counter(each.kind for each in poisson([Stage(seconds=1000, per_s=10)], 0.0, {"chat": 3, "search": 1}, 1))
    assert kinds["chat"] / kinds["search"] == pytest.approx(3, rel=0.1)


def test_a_stage_may_be_a_multiple_of_the_peak() -> None:
    stages = (Stage(seconds=100, times_peak=10),)
    assert len(list(poisson(stages, 4.0, {"chat": 1}, 1))) == pytest.approx(4000, rel=0.1)
    scenario = Scenario(about="", user="Arrivals", peak=Peak(at_once=1, seconds=9), stages=stages, gates=Gates())
    assert offered(scenario, 4.0) == [40]
    assert list(poisson(stages, 0.0, {"chat": 1}, 1)) == []  # nothing was answered while the peak was measured


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "trace.csv").write_text(TRACE)
    return tmp_path


def test_a_trace_is_replayed_as_it_was(data: Path) -> None:
    found = list(replayed(Replay(file="trace.csv"), data, 60, 1))
    assert [each.due_s for each in found] == [0, 4, 10]
    assert [(each.prompt_tokens, each.tokens) for each in found] == [(374, 44), (PROMPT_TOKENS, 109), (10, 1)]


def test_a_trace_is_scaled_in_time_and_length(data: Path) -> None:
    found = list(replayed(Replay(file="trace.csv", speed=2, lengths=0.5), data, 4, 1))
    assert [each.due_s for each in found] == [0, 2]
    assert [each.tokens for each in found] == [22, 54]


@given(st.integers(0, 50))
def test_a_part_of_a_trace_keeps_its_order(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    folder = tmp_path_factory.mktemp("trace")
    lines = [f"2023-11-16 18:{at // 60:02d}:{at % 60:02d}.0000000,10,5" for at in range(1000)]
    (folder / "trace.csv").write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *lines]))
    found = [each.due_s for each in replayed(Replay(file="trace.csv", rate=0.3), folder, 1000, seed)]
    assert found == sorted(found)
    assert 200 < len(found) < 400


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,1,1\n"])
def test_what_is_no_trace_is_refused(data: Path, text: str) -> None:
    (data / "trace.csv").write_text(text)
    with pytest.raises(ValueError, match="not a trace"):
        list(replayed(Replay(file="trace.csv"), data, 60, 1))


def test_without_the_folder_a_trace_can_not_be_replayed() -> None:
    stages = (Stage(seconds=1, per_s=1),)
    scenario = Scenario(about="", user="Arrivals", replay=Replay(file="trace.csv"), stages=stages, gates=Gates())
    with pytest.raises(ValueError, match="DATA=folder"):
        arrivals(scenario, 0.0, None)
