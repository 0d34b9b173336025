"""Gates are judged on the rows, one by one, and a run that measured nothing meets none."""

from dataclasses import replace

import pytest

from loadtest.journal import Journal, Row
from loadtest.scenario import Bounds, Gates
from loadtest.slo import Verdict, judge, judged

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
GATES = Gates(ttft_ms=Bounds(p50=60, p99=100), itl_ms=Bounds(p99=30), e2e_ms=Bounds(p95=100), success_ratio=0.99, fairness=0.9)


def verdicts(rows: list[Row], orphans: int | None = None) -> dict[str, Verdict]:
    """The verdicts by gate."""
    return {verdict.gate: verdict for verdict in judge(rows, GATES, orphans)}


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
    found = {verdict.gate: verdict for verdict in judge(rows, Gates(last_turn=1.5), None)}["last_turn"]
    assert found.met is met
    assert found.found == (last_ms / 50 if last_ms else None)


def test_an_empty_run_is_not_a_success() -> None:
    found = verdicts([])
    assert found["success_ratio"] == Verdict("success_ratio", 0.99, None, False)
    assert not found["ttft_ms p50"].met


def test_the_warm_up_is_not_judged() -> None:
    late = replace(GOOD, t_start=111.0)
    assert judged([late, GOOD], 10.0) == [late]
    assert judged([], 10.0) == []


def test_a_journal_gives_back_its_rows(tmp_path) -> None:
    journal = Journal(tmp_path / "reports" / "raw.jsonl")
    journal.clear()
    rows = [GOOD, replace(GOOD, ttft_ms=None, error_code="ünreadable\n")]
    for row in rows:
        journal.append(row)
    assert list(journal.rows()) == rows
