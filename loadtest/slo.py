"""Judges a run by its rows: every gate of the scenario, exactly, and nothing else."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from loadtest.figures import jain, percentile
from loadtest.journal import Row
from loadtest.scenario import Bounds, Gates

REFUSED = (429, 503)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One gate, what was found, and whether it was met."""

    gate: str
    limit: float
    found: float | None
    """None when there was nothing to measure, which is not met."""
    met: bool


def judged(rows: Sequence[Row], warm_up_s: float) -> list[Row]:
    """Return the rows of requests begun after the warm-up."""
    if not rows:
        return []
    begun = min(row.t_start for row in rows) + warm_up_s
    return [row for row in rows if row.t_start >= begun]


def judge(rows: Sequence[Row], gates: Gates, orphans: int | None) -> list[Verdict]:
    """Return the verdict on every gate; a run without rows meets none of those that need one."""
    admitted = [row for row in rows if row.status not in REFUSED]
    refused = [row for row in rows if row.status in REFUSED]
    good = [row for row in admitted if row.error_code is None]
    verdicts = [
        *_bounded("ttft_ms", gates.ttft_ms, [row.ttft_ms for row in good if row.ttft_ms is not None]),
        *_bounded("itl_ms", gates.itl_ms, [gap for row in good for gap in row.itl_ms]),
        *_bounded("e2e_ms", gates.e2e_ms, [row.e2e_ms for row in good]),
        *_bounded("lag_ms", gates.lag_ms, [1000 * max(row.t_start - row.t_scheduled, 0.0) for row in rows]),
        _at_least("success_ratio", gates.success_ratio, len(good) / len(admitted) if admitted else None),
        _at_most("refused_ratio", gates.refused_ratio, len(refused) / len(rows) if rows else None),
        _at_most("sequence_gaps", gates.sequence_gaps, sum(row.missing for row in good)),
        _at_most("duplicated_text", gates.duplicated_text, sum(row.repeated for row in good)),
        _at_most("unexpected_5xx", gates.unexpected_5xx, sum(row.status >= 500 for row in admitted)),
        _at_most(
            "refusals_without_retry_after",
            gates.refusals_without_retry_after,
            sum(not row.retry_after for row in refused),
        ),
    ]
    if orphans is not None:
        verdicts.append(_at_most("orphans", gates.orphans, orphans))
    if gates.last_turn is not None:
        verdicts.append(_at_most("last_turn", gates.last_turn, _last_turn(good)))
    if gates.fairness is not None:
        verdicts.append(_at_least("fairness", gates.fairness, _fairness(rows)))
    return verdicts


def _bounded(name: str, bounds: Bounds, values: Sequence[float]) -> Iterator[Verdict]:
    for percent, limit in ((50, bounds.p50), (95, bounds.p95), (99, bounds.p99)):
        if limit is not None:
            yield _at_most(f"{name} p{percent}", limit, percentile(values, percent) if values else None)


def _at_most(gate: str, limit: float, found: float | None) -> Verdict:
    return Verdict(gate, limit, found, found is not None and found <= limit)


def _at_least(gate: str, limit: float, found: float | None) -> Verdict:
    return Verdict(gate, limit, found, found is not None and found >= limit)


def _last_turn(rows: Sequence[Row]) -> float | None:
    """How much later the last turn begins than the first; None where there were not two turns."""
    turns: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        if row.ttft_ms is not None:
            turns[row.turn].append(row.ttft_ms)
    if len(turns) < 2:
        return None
    return percentile(turns[max(turns)], 50) / percentile(turns[min(turns)], 50)


def _fairness(rows: Sequence[Row]) -> float | None:
    tokens: dict[int, int] = defaultdict(int)
    for row in rows:
        tokens[row.tenant] += row.tokens
    return jain(list(tokens.values())) if tokens else None
