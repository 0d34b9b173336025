"""Gates are judged on the rows, one by one, and a run that measured nothing meets none."""

from dataclasses import replace

import pytest

from loadtest.journal import Journal, Row
from loadtest.scenario import Bounds, Gates, Peak, Scenario, Stage
from loadtest.slo import Beside, Verdict, goodput, judge, judged, measured

GOOD = Row(
    scenario="burst",
    user="Asker-0",
    tenant=0,
    turn=0,
    t_scheduled=100.0,
    t_start=100.0,
    ttft_ms=50.0,
    itl_ms=[20.0, 22.0],
    e2e_ms=92.0,
    tokens=3,
    status=200,
    error_code=None,
    request_id=None,
    retry_after=False,
    missing=0,
    repeated=0,
)
GATES = Gates(
    ttft_ms=Bounds(p50=60, p99=100), itl_ms=Bounds(p99=30), e2e_ms=Bounds(p95=100), success_ratio=0.99, unfinished=None, fairness=0.9
)


def scenario(gates: Gates, peak: Peak | None = None) -> Scenario:
    """A scenario with these gates, 2 requests a second for 10 s and then 4 for 10 s."""
    stages = (Stage(seconds=10, per_s=2), Stage(seconds=10, per_s=4))
    return Scenario(about="", user="Arrivals", stages=stages, gates=gates, peak=peak)


def verdicts(rows: list[Row], orphans: int | None = None) -> dict[str, Verdict]:
    """The verdicts by gate."""
    return {verdict.gate: verdict for verdict in judge(rows, scenario(GATES), Beside(orphans))}


def missed(rows: list[Row], orphans: int | None = None) -> list[str]:
    """The gates that were not met."""
    return [verdict.gate for verdict in verdicts(rows, orphans).values() if not verdict.met]


def test_good_rows_meet_every_gate() -> None:
    assert missed([GOOD] * 100, 0) == []


@pytest.mark.parametrize(
    ("change", "gate"),
    [
        ({"ttft_ms": 150.0}, "ttft_ms p99"),
        ({"itl_ms": [20.0, 500.0]}, "itl_ms p99"),
        ({"t_start": 105.0}, "lag_ms p99"),
        ({"error_code": "ended early"}, "success_ratio"),
        ({"missing": 1}, "sequence_gaps"),
        ({"repeated": 1}, "duplicated_text"),
        ({"lost_events": 1}, "lost_events"),
    ],
)
def test_a_bad_row_misses_its_gate(change: dict[str, object], gate: str) -> None:
    assert missed([GOOD] * 40 + [replace(GOOD, **change)]) == [gate]


def test_a_server_error_is_a_failure_and_unexpected() -> None:
    assert missed([GOOD] * 40 + [replace(GOOD, status=500, error_code="status 500")]) == ["success_ratio", "unexpected_5xx"]


def test_an_honest_refusal_counts_apart_from_success() -> None:
    refused = replace(GOOD, status=503, error_code="status 503", retry_after=True, tokens=0)
    assert missed([GOOD] * 40 + [refused]) == ["refused_ratio"]
    assert missed([GOOD] * 40 + [replace(refused, retry_after=False)]) == ["refused_ratio", "refusals_without_retry_after"]


def test_orphans_are_judged_only_when_they_were_counted() -> None:
    assert "orphans" not in verdicts([GOOD])
    assert missed([GOOD], 1) == ["orphans"]


def test_a_starved_key_misses_fairness() -> None:
    assert missed([GOOD] * 10 + [replace(GOOD, tenant=1, tokens=1)]) == ["fairness"]


@pytest.mark.parametrize(("last_ms", "met"), [(60.0, True), (80.0, False), (None, False)])
def test_a_conversation_must_not_slow_down(last_ms: float | None, met: bool) -> None:
    rows = [GOOD, replace(GOOD, turn=9, ttft_ms=500.0), replace(GOOD, turn=19, ttft_ms=last_ms)] if last_ms else [GOOD]
    found = {verdict.gate: verdict for verdict in judge(rows, scenario(Gates(last_turn=1.5)), Beside())}["last_turn"]
    assert found.met is met
    assert found.found == (last_ms / 50 if last_ms else None)


def test_an_empty_run_is_not_a_success() -> None:
    found = verdicts([])
    assert found["success_ratio"] == Verdict("success_ratio", 0.99, None, False)
    assert not found["ttft_ms p50"].met


def found(gates: Gates, rows: list[Row], gate: str, peak: Peak | None = None, beside: Beside | None = None) -> Verdict:
    """The verdict on one gate."""
    return next(verdict for verdict in judge(rows, scenario(gates, peak), beside or Beside()) if verdict.gate == gate)


def test_an_answer_that_breaks_off_is_unfinished_and_one_that_only_seems_whole_is_a_silent_failure() -> None:
    rows = [GOOD] * 9 + [replace(GOOD, error_code="ended early", silent=True), replace(GOOD, error_code="server_error")]
    assert found(Gates(), rows, "unfinished") == Verdict("unfinished", 0, 2, False)
    assert found(Gates(), rows, "silent_failures") == Verdict("silent_failures", 0, 1, False)


def test_a_turn_that_was_never_held_is_unfinished() -> None:
    held = Scenario(about="", user="Session", turns=5, stages=(Stage(seconds=9, sessions=2),), gates=Gates())
    verdict = {each.gate: each for each in judge([GOOD] * 8, held, Beside())}["unfinished"]
    assert verdict == Verdict("unfinished", 0, 2, False)


def test_refusals_are_not_unfinished() -> None:
    rows = [GOOD, replace(GOOD, status=429, error_code="status 429", retry_after=True)]
    assert found(Gates(), rows, "unfinished").met


BEST = Peak(at_once=2, seconds=12, warm_s=2)
AT_PEAK = [replace(GOOD, stage=-1, t_start=at / 5, t_scheduled=at / 5) for at in range(60)]
"""Five answers a second for 12 s."""


def busy(count: int, **change: object) -> list[Row]:
    """Requests of the busiest stage of the scenario, which lasts 10 s."""
    return [replace(GOOD, stage=1, **change) for _ in range(count)]


def test_the_peak_is_what_came_to_its_end_after_the_first_seconds() -> None:
    assert measured(AT_PEAK, BEST) == pytest.approx(5, abs=0.1)
    assert measured([*AT_PEAK, *[replace(row, error_code="status 503") for row in AT_PEAK]], BEST) == pytest.approx(5, abs=0.1)
    assert measured([GOOD], BEST) == 0


@pytest.mark.parametrize(
    ("rows", "ratio"),
    [
        (busy(40), 1.0),
        (busy(20) + busy(20, error_code="status 503", status=503), 0.5),
        (busy(20) + busy(20, ttft_ms=900.0), 0.5),
        (busy(50) + busy(400, error_code="status 503", status=503), 1.0),
    ],
    ids=["all that was asked", "half refused", "half too late", "ten times the peak"],
)
def test_goodput_is_beside_what_can_be_had(rows: list[Row], ratio: float) -> None:
    at_most = Gates(ttft_ms=Bounds(p95=100), goodput=0.85)
    assert goodput([*AT_PEAK, *rows], scenario(at_most, BEST), 5.0) == pytest.approx(ratio)
    assert found(at_most, [*AT_PEAK, *rows], "goodput", BEST).met is (ratio >= 0.85)


def test_without_a_peak_nothing_is_known_of_goodput() -> None:
    assert found(Gates(goodput=0.85), busy(40), "goodput", BEST) == Verdict("goodput", 0.85, None, False)


def test_ttft_under_load_is_compared_with_that_at_the_peak() -> None:
    rows = AT_PEAK + busy(40, ttft_ms=150.0)
    assert found(Gates(ttft_of_peak=2), rows, "ttft_of_peak p99", BEST) == Verdict("ttft_of_peak p99", 2, 3.0, False)


def test_requests_of_one_kind_have_bounds_of_their_own() -> None:
    gates = Gates(kind_ms={"upload": Bounds(p95=5000)}, e2e_ms=Bounds(p95=100))
    rows = [GOOD, replace(GOOD, kind="upload", ttft_ms=None, e2e_ms=6000.0)]
    assert not found(gates, rows, "upload p95").met
    assert found(gates, rows, "e2e_ms p95").met


@pytest.mark.parametrize(("grown", "met"), [(0.5, True), (-3.0, True), (1.5, False), (None, False)])
def test_memory_is_judged_where_the_stack_is_the_runs_own(grown: float | None, met: bool) -> None:
    gates = Gates(memory_mib_per_10min=1)
    assert found(gates, [GOOD], "memory_mib_per_10min", beside=Beside(None, grown, True)).met is met
    assert "memory_mib_per_10min" not in [verdict.gate for verdict in judge([GOOD], scenario(gates), Beside())]


def test_the_warm_up_is_not_judged() -> None:
    late = replace(GOOD, t_start=111.0)
    assert judged([late, GOOD], 10.0) == [late]
    assert judged([], 10.0) == []


def test_the_measuring_of_the_peak_is_not_judged() -> None:
    assert judged([replace(GOOD, stage=-1, t_start=0.0), GOOD], 10.0) == []
    assert judged([replace(GOOD, stage=-1, t_start=0.0), GOOD], 0.0) == [GOOD]


def test_a_journal_gives_back_its_rows(tmp_path) -> None:
    journal = Journal(tmp_path / "reports" / "raw.jsonl")
    journal.clear()
    rows = [GOOD, replace(GOOD, ttft_ms=None, error_code="ünreadable\n")]
    for row in rows:
        journal.append(row)
    assert list(journal.rows()) == rows
