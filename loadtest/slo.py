"""Judges a run by its rows: every gate of the scenario, exactly, and nothing else."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from loadtest.figures import jain, percentile
from loadtest.journal import Row
from loadtest.scenario import Bounds, Peak, Scenario
from loadtest.schedule import offered

REFUSED = (429, 503)

ANSWERS = ("chat", "responses")
"""Kinds of requests that are answered by a model; times to the first token and in total are of these."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One gate, what was found, and whether it was met."""

    gate: str
    limit: float
    found: float | None
    """None when there was nothing to measure, which is not met."""
    met: bool


@dataclass(frozen=True, slots=True)
class Beside:
    """What is known of a run beside its rows."""

    orphans: int | None = None
    """Answers the simulator still worked on at the end; None where nobody looked."""
    memory: float | None = None
    """MiB that the stack grew in 10 minutes."""
    watched: bool = False
    """The run started the stack, so that its memory can be judged."""


def judged(rows: Sequence[Row], warm_up_s: float) -> list[Row]:
    """Return the rows of requests begun after the warm-up, without those that measured the peak."""
    load = [row for row in rows if row.stage >= 0]
    if not load:
        return []
    begun = min(row.t_start for row in load) + warm_up_s
    return [row for row in load if row.t_start >= begun]


def judge(rows: Sequence[Row], scenario: Scenario, beside: Beside) -> list[Verdict]:
    """Return the verdict on every gate; a run without rows meets none of those that need one.

    Times and ratios are those of the load after the warm-up; what must not happen counts whenever it happened.
    """
    gates, peak = scenario.gates, measured(rows, scenario.peak)
    counted = judged(rows, scenario.warm_up_s)
    admitted = [row for row in counted if row.status not in REFUSED]
    refused = [row for row in rows if row.status in REFUSED]
    good = [row for row in admitted if row.error_code is None]
    answers = [row for row in good if row.kind in ANSWERS]
    verdicts = [
        *_bounded("ttft_ms", gates.ttft_ms, [row.ttft_ms for row in answers if row.ttft_ms is not None]),
        *_bounded("itl_ms", gates.itl_ms, [gap for row in answers for gap in row.itl_ms]),
        *_bounded("e2e_ms", gates.e2e_ms, [row.e2e_ms for row in answers]),
        *(
            each
            for kind, bounds in gates.kind_ms.items()
            for each in _bounded(kind, bounds, [row.e2e_ms for row in good if row.kind == kind])
        ),
        *_bounded("lag_ms", gates.lag_ms, [1000 * max(row.t_start - row.t_scheduled, 0.0) for row in counted]),
        _at_least("success_ratio", gates.success_ratio, len(good) / len(admitted) if admitted else None),
        _at_most("refused_ratio", gates.refused_ratio, 1 - len(admitted) / len(counted) if counted else None),
        _at_most("silent_failures", gates.silent_failures, sum(row.silent for row in rows)),
        _at_most("sequence_gaps", gates.sequence_gaps, sum(row.missing for row in rows)),
        _at_most("duplicated_text", gates.duplicated_text, sum(row.repeated for row in rows)),
        _at_most("lost_events", gates.lost_events, sum(row.lost_events for row in rows)),
        _at_most("unexpected_5xx", gates.unexpected_5xx, sum(row.status >= 500 and row.status not in REFUSED for row in rows)),
        _at_most("refusals_without_retry_after", gates.refusals_without_retry_after, sum(not row.retry_after for row in refused)),
    ]
    optional = {
        "unfinished": (
            gates.unfinished,
            sum(row.error_code is not None and row.status not in REFUSED for row in rows) + _unheld(rows, scenario),
        ),
        "orphans": (gates.orphans if beside.orphans is not None else None, beside.orphans),
        "last_turn": (gates.last_turn, _last_turn(answers)),
        "ttft_of_peak p99": (gates.ttft_of_peak, _of_peak(answers, rows)),
        "memory_mib_per_10min": (gates.memory_mib_per_10min if beside.watched else None, beside.memory),
    }
    verdicts += [_at_most(name, limit, found) for name, (limit, found) in optional.items() if limit is not None]
    if gates.fairness is not None:
        verdicts.append(_at_least("fairness", gates.fairness, _fairness(counted)))
    if gates.goodput is not None:
        verdicts.append(_at_least("goodput", gates.goodput, goodput(rows, scenario, peak)))
    return verdicts


def measured(rows: Sequence[Row], peak: Peak | None) -> float:
    """Return the peak: good answers a second while it was measured, without its first seconds; 0 where it was not."""
    before = [row for row in rows if row.stage < 0]
    if peak is None or not before:
        return 0.0
    begun = min(row.t_start for row in before)
    ends = [row.t_scheduled + row.e2e_ms / 1000 - begun for row in before if row.error_code is None]
    return sum(peak.warm_s <= end < peak.seconds for end in ends) / (peak.seconds - peak.warm_s)


def goodput(rows: Sequence[Row], scenario: Scenario, peak: float) -> float | None:
    """Return the goodput of the busiest stage, beside what can be had of it; None where there is no peak."""
    wanted = offered(scenario, peak)
    busiest = wanted.index(max(wanted))
    if not peak:
        return None
    limit = scenario.gates.ttft_ms.p95
    good = [row for row in rows if row.stage == busiest and row.error_code is None and _timely(row, limit)]
    asked = sum(row.stage == busiest for row in rows) / scenario.stages[busiest].seconds
    return len(good) / scenario.stages[busiest].seconds / min(peak, asked) if asked else None


def _unheld(rows: Sequence[Row], scenario: Scenario) -> int:
    """Turns of sessions that were never held."""
    wanted = scenario.stages[0].sessions * scenario.turns if scenario.user == "Session" else 0
    return max(wanted - len(rows), 0)


def _timely(row: Row, limit_ms: float | None) -> bool:
    return limit_ms is None or (row.ttft_ms is not None and row.ttft_ms <= limit_ms)


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


def _of_peak(answers: Sequence[Row], rows: Sequence[Row]) -> float | None:
    """p99 of TTFT beside that at the peak."""
    at_peak = [row.ttft_ms for row in rows if row.stage < 0 and row.ttft_ms is not None]
    under_load = [row.ttft_ms for row in answers if row.ttft_ms is not None]
    return percentile(under_load, 99) / percentile(at_peak, 99) if at_peak and under_load else None


def _fairness(rows: Sequence[Row]) -> float | None:
    tokens: dict[int, int] = defaultdict(int)
    for row in rows:
        tokens[row.tenant] += row.tokens
    return jain(list(tokens.values())) if tokens else None
