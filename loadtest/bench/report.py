"""Sums up the repetitions of a benchmark, as a table for people and as JSON for programs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from loadtest.bench.measure import CROWDS, DIRECT, UNARY_CLIENTS, Run
from loadtest.figures import Spread


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: a figure, what it is called, and how many decimals it deserves."""

    figure: str
    title: str
    decimals: int = 0


def rows() -> list[Row]:
    """Return the lines of the table."""
    lines = [
        Row("added_ttft_ms", "added TTFT p50, one at a time (ms)", 1),
        Row("added_total_ms", "added total p50, one at a time (ms)", 1),
        Row("admission_ms", "admission p50 of these (ms)", 2),
    ]
    for clients in CROWDS:
        lines += [
            Row(f"tokens_s_{clients}", f"{clients} streams: tokens/s delivered"),
            Row(f"tokens_share_{clients}", f"{clients} streams: % of the simulator's", 1),
            Row(f"ttft_p50_ms_{clients}", f"{clients} streams: TTFT p50 (ms)"),
            Row(f"ttft_p95_ms_{clients}", f"{clients} streams: TTFT p95 (ms)"),
            Row(f"longest_gap_p95_ms_{clients}", f"{clients} streams: longest gap p95 (ms)"),
            Row(f"cpu_ms_per_1000_{clients}", f"{clients} streams: CPU-ms per 1,000 tokens"),
        ]
    lines += [
        Row("unary_rps", f"req/s, not streamed, {UNARY_CLIENTS} clients"),
        Row("inner_unary_rps", "the same without the edge"),
        Row("unary_p50_ms", "p50 of these (ms)"),
        Row("inner_unary_p50_ms", "the same without the edge (ms)"),
        Row("edge_ttft_ms", "TTFT p50 one at a time, added by the edge (ms)", 1),
        Row("unary_cpu_ms", "CPU-ms per request, not streamed", 2),
        Row("memory_mib", "memory, all processes (MiB PSS)"),
    ]
    return lines


def compare(repetition: Sequence[Run]) -> None:
    """Add to each run of one repetition what it is beside the simulator's, when that was measured too."""
    direct = next((run.figures for run in repetition if run.case == DIRECT), None)
    if direct is None:
        return
    for run in repetition:
        figures = run.figures
        for kind in ("ttft", "total"):
            if f"single_{kind}_ms" in figures and run.case != DIRECT:
                figures[f"added_{kind}_ms"] = figures[f"single_{kind}_ms"] - direct[f"single_{kind}_ms"]
        for clients in CROWDS:
            if offered := direct.get(f"tokens_s_{clients}"):
                figures[f"tokens_share_{clients}"] = 100 * figures[f"tokens_s_{clients}"] / offered


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound on one figure of one case, beside a figure of another case where a reference is named."""

    text: str
    case: str
    figure: str
    limit: float
    at_least: bool = False
    reference: str | None = None
    added: bool = False
    """The figure minus the reference's is bounded, rather than divided by it."""

    def value(self, found: dict[str, dict[str, Spread]]) -> float | None:
        """Return the figure to compare with the limit; None when something was not measured."""
        own = found.get(self.case, {}).get(self.figure)
        if own is None:
            return None
        if self.reference is None:
            return own.median
        other = found.get(self.reference, {}).get(self.figure)
        if other is None or not other.median:
            return None
        return own.median - other.median if self.added else own.median / other.median

    def met(self, value: float) -> bool:
        """True when the value is on the right side of the limit."""
        return value >= self.limit if self.at_least else value <= self.limit


GOALS = (
    Goal("added TTFT p50 ≤ 10 ms", "headrace-direct", "added_ttft_ms", 10),
    Goal("added TTFT p50 ≤ 50 ms", "headrace", "added_ttft_ms", 50),
    Goal("admission p50 ≤ 1.5 ms", "headrace-direct", "admission_ms", 1.5),
    Goal("tokens/s of 100 streams ≥ 94 % of the simulator's", "headrace-direct", "tokens_share_100", 94, at_least=True),
    Goal("TTFT p95 of 100 streams ≤ simulator's + 200 ms", "headrace-direct", "ttft_p95_ms_100", 200, False, DIRECT, True),
    Goal("CPU per token at 100 streams ≤ 0.8 of raw bytes", "headrace-direct", "cpu_ms_per_1000_100", 0.8, False, "bare raw"),
    Goal("CPU per token at 100 streams ≤ 0.35 of the openai client", "headrace-direct", "cpu_ms_per_1000_100", 0.35, False, "bare openai"),
)


def summarise(runs: Sequence[Run]) -> dict[str, dict[str, Spread]]:
    """Return every figure of every case, in the order of the runs: the median of its repetitions and their extremes."""
    found: dict[str, dict[str, list[float]]] = {}
    for run in runs:
        for name, value in run.figures.items():
            found.setdefault(run.case, {}).setdefault(name, []).append(value)
    return {case: {name: Spread.of(values) for name, values in figures.items()} for case, figures in found.items()}


def document(runs: Sequence[Run], setting: dict[str, Any]) -> dict[str, Any]:
    """Return everything as JSON-ready values."""
    found = summarise(runs)
    goals = [(goal, goal.value(found)) for goal in GOALS]
    return {
        "setting": setting,
        "medians": {case: {name: asdict(spread) for name, spread in figures.items()} for case, figures in found.items()},
        "goals": [
            {"goal": goal.text, "case": goal.case, "value": value, "met": goal.met(value)} for goal, value in goals if value is not None
        ],
        "runs": [asdict(run) for run in runs],
    }


def show(console: Console, runs: Sequence[Run], title: str) -> None:
    """Print the table, the memory of each process, the goals, and what makes a run invalid."""
    found = summarise(runs)
    table = Table("", *found, title=title, title_justify="left", caption="median (lowest to highest)", caption_justify="left")
    for row in rows():
        cells = [_cell(figures.get(row.figure), row.decimals) for figures in found.values()]
        table.add_row(row.title, *cells, end_section=row.figure.startswith(("added_total", "cpu_ms_per")))
    console.print(table)
    for case in found:
        if lines := _memory([run for run in runs if run.case == case]):
            console.print(f"[bold]{case}[/], MiB per process: {lines}", highlight=False)
    for goal in GOALS:
        if (value := goal.value(found)) is not None:
            mark = "[green]met[/]" if goal.met(value) else "[red]missed[/]"
            console.print(f"{mark}  {goal.case}: {goal.text}, found {value:.2f}", highlight=False)
    for run in runs:
        if run.faults:
            console.print(f"[red]invalid[/] {run.case}: {'; '.join(run.faults)}", highlight=False)


def _cell(spread: Spread | None, decimals: int) -> str:
    if spread is None:
        return "-"
    shown = f"{spread.median:,.{decimals}f}"
    if spread.low == spread.high:
        return shown
    return f"{shown} ({spread.low:,.{decimals}f}-{spread.high:,.{decimals}f})"


def _memory(runs: Sequence[Run]) -> str:
    if not runs or not runs[-1].memory_mib:
        return ""
    sizes: dict[str, list[float]] = {}
    for name, size in runs[-1].memory_mib:
        sizes.setdefault(name, []).append(size)
    ordered = sorted(sizes.items(), key=lambda each: -sum(each[1]))
    return ", ".join(f"{name}{f' ({len(found)} of)' if len(found) > 1 else ''} {median(found):.0f}" for name, found in ordered)
