"""What locust loads: the users, the shape, and the end of a run, where the gates decide the exit code.

`python -m loadtest.run` calls it with everything filled in.
"""

import json
import sys
import time
from argparse import ArgumentParser
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import gevent
from locust import events
from locust.env import Environment

from loadtest.figures import percentile
from loadtest.journal import Journal, Row
from loadtest.scenario import load, names
from loadtest.setting import facts
from loadtest.shapes import Stages
from loadtest.slo import Verdict, judge, judged
from loadtest.users import Asker, Talker
from loadtest.watch import Watch

__all__ = ["Asker", "Stages", "Talker"]

BUSY_PERCENT = 90.0
"""Of a core; such a run says nothing about the service."""

MISSED, INVALID = 1, 3
"""Exit codes: a gate was missed; the load generator was too busy for the run to count."""

ORPHANS_WITHIN_S = 2.0


@events.init_command_line_parser.add_listener
def options(parser: ArgumentParser) -> None:
    """Add what `loadtest.run` passes on."""
    add = parser.add_argument
    add("--scenario", choices=names(), default="burst")
    add("--journal", default="reports/raw.jsonl", help="one JSON object a request")
    add("--summary", default="reports/summary.json", help="gates and percentiles")
    add("--key-file", action="append", default=[], help="a file with an API key; several make several tenants")
    add("--model", default="", help="instead of the scenario's")
    add("--simulator", default="", help="its URL, to look for orphaned answers at the end")
    add("--users-factor", type=float, default=1.0)
    add("--time-factor", type=float, default=1.0)


@events.init.add_listener
def begin(environment: Environment, **_: Any) -> None:
    """Start with an empty journal, and show how the run is going."""
    Journal(Path(_options(environment).journal)).clear()
    watch = Watch(environment, _options(environment).scenario)
    gevent.spawn(watch.run)

    @environment.events.quitting.add_listener
    def end(environment: Environment, **_: Any) -> None:
        environment.process_exit_code = finish(environment, watch.busiest_percent)


def _options(environment: Environment) -> Any:
    if environment.parsed_options is None:
        raise RuntimeError("this file is for the locust command line")
    return environment.parsed_options


def finish(environment: Environment, busiest: float) -> int:
    """Judge the run from its journal, write the summary, print the verdicts and return the exit code."""
    chosen = _options(environment)
    scenario = load(chosen.scenario)
    rows = list(Journal(Path(chosen.journal)).rows())
    counted = judged(rows, scenario.warm_up_s * chosen.time_factor)
    verdicts = judge(counted, scenario.gates, _orphans(chosen.simulator) if chosen.simulator else None)
    valid = busiest <= BUSY_PERCENT
    summary = {
        "scenario": chosen.scenario,
        "host": environment.host,
        "setting": facts(),
        "users_factor": chosen.users_factor,
        "time_factor": chosen.time_factor,
        "requests": len(rows),
        "judged": len(counted),
        "valid": valid,
        "client_cpu_percent": busiest,
        "percentiles": _percentiles(counted),
        "gates": [asdict(verdict) for verdict in verdicts],
    }
    Path(chosen.summary).write_text(json.dumps(summary, indent=1))
    sys.stderr.write("\n" + "\n".join(_line(verdict) for verdict in verdicts) + "\n")
    if not valid:
        sys.stderr.write(f"INVALID: the load generator used {busiest:.0f} % of a core\n")
        return INVALID
    return 0 if all(verdict.met for verdict in verdicts) else MISSED


def _percentiles(rows: list[Row]) -> dict[str, dict[str, float]]:
    good = [row for row in rows if row.error_code is None]
    values = {
        "ttft_ms": [row.ttft_ms for row in good if row.ttft_ms is not None],
        "itl_ms": [gap for row in good for gap in row.itl_ms],
        "e2e_ms": [row.e2e_ms for row in good],
    }
    return {
        name: {f"p{percent}": round(percentile(found, percent), 2) for percent in (50, 95, 99)} for name, found in values.items() if found
    }


def _line(verdict: Verdict) -> str:
    found = "nothing measured" if verdict.found is None else f"{verdict.found:,.4g}"
    return f"{'met   ' if verdict.met else 'MISSED'} {verdict.gate:30s} {found:>16s}  limit {verdict.limit:,g}"


def _orphans(simulator: str) -> int:
    deadline = time.monotonic() + ORPHANS_WITHIN_S
    while True:
        with urlopen(f"{simulator}/sim/stats", timeout=5) as reply:  # noqa: S310 - the URL is the caller's own
            left = int(json.load(reply)["open"])
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.1)
