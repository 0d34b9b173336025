"""The end of a run: rows, looks and counts become verdicts, a summary, a report and an exit code."""

import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from loadtest import replicas, report
from loadtest.figures import percentile
from loadtest.journal import Journal, Row
from loadtest.replicas import Look
from loadtest.scenario import Scenario
from loadtest.setting import facts
from loadtest.slo import ANSWERS, REFUSED, Beside, Verdict, judge, judged, measured
from loadtest.timeline import bins

BUSY_PERCENT = 90.0
"""Of a core; a load generator that uses more says nothing about the service."""

MISSED, INVALID = 1, 3
"""Exit codes: a gate was missed; the load generator was too busy for the run to count."""

ORPHANS_WITHIN_S = 2.0


def finish(name: str, scenario: Scenario, folder: Path, about: dict[str, Any], simulator: str, looks: Sequence[Look] = ()) -> int:
    """Judge a run from what it left in its folder, write the reports, print the verdicts and return the exit code."""
    rows = list(Journal(folder / "raw.jsonl").rows())
    busiest = float(json.loads((folder / "client.json").read_text())["cpu_percent"])
    counted = judged(rows, scenario.warm_up_s)
    since = min((row.t_start for row in counted), default=0.0)
    until = max((row.t_scheduled + row.e2e_ms / 1000 for row in counted), default=0.0)
    under_load = [look for look in looks if look.at <= until]
    orphans = _orphans(simulator) if simulator else None
    verdicts = judge(rows, scenario, Beside(orphans, replicas.total(under_load, since), bool(looks)))
    valid = busiest <= BUSY_PERCENT
    summary = {
        "scenario": name,
        "about": scenario.about,
        "setting": facts(),
        **about,
        "requests": len(rows),
        "judged": len(counted),
        "refused": sum(row.status in REFUSED for row in counted),
        "peak_per_s": round(measured(rows, scenario.peak), 2),
        "valid": valid,
        "client_cpu_percent": busiest,
        "percentiles": percentiles(counted),
        "errors": dict(Counter(row.error_code for row in counted if row.error_code).most_common(20)),
        "memory_mib_per_10min": {key: round(mib, 2) for key, mib in replicas.growth(under_load, since).items()},
        "gates": [asdict(verdict) for verdict in verdicts],
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=1))
    _report(folder, summary, verdicts, rows, looks)
    sys.stderr.write("\n" + "".join(f"{report.line(verdict)}\n" for verdict in verdicts))
    sys.stderr.write(f"{folder / 'report.html'} has the plots\n")
    if not valid:
        sys.stderr.write(f"INVALID: the load generator used {busiest:.0f} % of a core\n")
        return INVALID
    return 0 if all(verdict.met for verdict in verdicts) else MISSED


def percentiles(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Return p50, p95 and p99 of every row of the report: answers together, other kinds of requests each."""
    good = [row for row in rows if row.error_code is None]
    answers = [row for row in good if row.kind in ANSWERS]
    values = {
        "TTFT ms": [row.ttft_ms for row in answers if row.ttft_ms is not None],
        "ITL ms": [gap for row in answers for gap in row.itl_ms],
        "E2E ms": [row.e2e_ms for row in answers],
        "RESUME ms": [row.resume_ms for row in answers if row.resume_ms is not None],
        "lag ms": [1000 * (row.t_start - row.t_scheduled) for row in rows],
        **{f"{kind} ms": [row.e2e_ms for row in good if row.kind == kind] for kind in sorted({row.kind for row in good} - set(ANSWERS))},
    }
    return {name: {f"p{at}": round(percentile(found, at), 2) for at in (50, 95, 99)} for name, found in values.items() if found}


def _report(folder: Path, summary: dict[str, Any], verdicts: list[Verdict], rows: list[Row], looks: Sequence[Look]) -> None:
    load = [row.t_scheduled for row in rows if row.stage >= 0]
    found = bins(rows)
    report.write(found, folder / "seconds.csv")
    (folder / "report.html").write_text(report.page(summary, verdicts, found, looks, min(load, default=time.time())))
    if looks:
        replicas.write(looks, folder)


def _orphans(simulator: str) -> int:
    deadline = time.monotonic() + ORPHANS_WITHIN_S
    while True:
        with urlopen(f"{simulator}/sim/stats", timeout=5) as reply:  # noqa: S310 - the URL is the caller's own
            left = int(json.load(reply)["open"])
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.1)
