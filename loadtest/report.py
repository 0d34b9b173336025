"""The report of a run: one HTML page that needs nothing else, and the same figures second by second as CSV."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from html import escape
from pathlib import Path
from typing import Any

from loadtest.plots import chart
from loadtest.replicas import Look, stages
from loadtest.slo import Verdict
from loadtest.timeline import Bin

STYLE = """
body{font:14px system-ui,sans-serif;max-width:900px;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1em 0}td,th{padding:.2em .8em;text-align:left;border-bottom:1px solid #ddd}
td.n{text-align:right;font-variant-numeric:tabular-nums}.met{color:#00704d}.missed{color:#b00020;font-weight:bold}
figure{margin:1em 0}svg{width:100%;font:11px system-ui,sans-serif}
"""


def line(verdict: Verdict) -> str:
    """Return a verdict as a line for the terminal."""
    found = "nothing measured" if verdict.found is None else f"{verdict.found:,.4g}"
    return f"{'met   ' if verdict.met else 'MISSED'} {verdict.gate:30s} {found:>16s}  limit {verdict.limit:,g}"


def page(summary: Mapping[str, Any], verdicts: Sequence[Verdict], bins: Sequence[Bin], looks: Sequence[Look], begun: float) -> str:
    """Return the report; `begun` is second 0 of the bins, in Unix seconds."""
    name = escape(str(summary["scenario"]))
    charts = [*_load(bins), *_stack([look for look in looks if not bins or look.at - begun >= bins[0].second], begun)]
    body = [
        f"<h1>{name}</h1><p>{escape(str(summary['about']))}</p>",
        _gates(verdicts),
        *charts,
        _table("Percentiles", ["", "p50", "p95", "p99"], [[row, *found.values()] for row, found in summary["percentiles"].items()]),
        _table(
            "Requests", ["", ""], [[key, summary[key]] for key in ("requests", "judged", "refused", "peak_per_s", "client_cpu_percent")]
        ),
        _table("What went wrong", ["error", "requests"], list(summary["errors"].items())),
        _table("Memory grown, MiB in 10 minutes", ["process", "MiB"], list(summary["memory_mib_per_10min"].items())),
        _table("Setting", ["", ""], list(summary["setting"].items())),
    ]
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Load: {name}</title><style>{STYLE}</style>'
    return f"{head}<body>{''.join(body)}</body></html>\n"


def write(bins: Sequence[Bin], file: Path) -> None:
    """Write the bins as CSV."""
    with file.open("w", newline="") as out:
        rows = csv.DictWriter(out, [field.name for field in fields(Bin)])
        rows.writeheader()
        rows.writerows(asdict(each) for each in bins)


def _load(bins: Sequence[Bin]) -> list[str]:
    seconds = [each.second for each in bins]
    of: dict[str, list[float | None]] = {field.name: [getattr(each, field.name) for each in bins] for field in fields(Bin)}
    rates = {name: of[name] for name in ("offered", "admitted", "refused", "failed")}
    return [
        chart("Requests a second, by when they were due", seconds, rates),
        chart("Goodput: whole answers a second, by when they ended", seconds, {"good": of["good"], "offered": of["offered"]}),
        chart(
            "Time to the first token of what was admitted, ms",
            seconds,
            {name[5:]: of[name] for name in ("ttft_p50", "ttft_p95", "ttft_p99")},
        ),
    ]


def _stack(looks: Sequence[Look], begun: float) -> list[str]:
    seconds = [look.at - begun for look in looks]
    if not looks:
        return []
    replicas = {stage: [float(look.replicas[stage]) for look in looks] for stage in stages(looks)}
    return [
        chart("Replicas by stage", seconds, replicas, steps=True),
        chart("Memory of the stack, MiB", seconds, {"RSS": [look.mib for look in looks]}),
    ]


def _gates(verdicts: Sequence[Verdict]) -> str:
    rows = "".join(
        f'<tr><td class="{"met" if each.met else "missed"}">{"met" if each.met else "MISSED"}</td><td>{escape(each.gate)}</td>'
        f'<td class="n">{"–" if each.found is None else f"{each.found:,.4g}"}</td><td class="n">{each.limit:,g}</td></tr>'
        for each in verdicts
    )
    return f"<h2>Gates</h2><table><tr><th></th><th>gate</th><th>found</th><th>limit</th></tr>{rows}</table>"


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    if not rows:
        return ""
    top = "".join(f"<th>{escape(word)}</th>" for word in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(_told(value))}</td>" for value in row) + "</tr>" for row in rows)
    return f"<h2>{escape(title)}</h2><table><tr>{top}</tr>{body}</table>"


def _told(value: object) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)
