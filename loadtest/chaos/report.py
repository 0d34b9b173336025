"""The table of a chaos run: for people, as JSON, as Markdown."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from loadtest.chaos.account import Sum
from loadtest.chaos.answer import Answer, Fate
from loadtest.chaos.scene import Fault
from loadtest.chaos.table import ELSEWHERE

HEADINGS = ("#", "fault", "N", "expected", "seen", "silent", "lost", "twice", "back p50/p95", "goal", "met")

ODD = 20
"""Answers of one fault that are told in full."""

Found = Mapping[Fault, Sum]
"""What was found of each fault that was injected."""


def cells(fault: Fault, found: Sum) -> list[str]:
    """Return one row of the table, under the headings."""
    missed = fault.goal.missed(found)
    return [
        fault.number,
        fault.name,
        str(len(found.trials)),
        fault.expected,
        seen(found),
        str(found.silent),
        str(found.lost),
        str(found.duplicated),
        f"{_seconds(found.recovered(50))} / {_seconds(found.recovered(95))}",
        fault.goal.text,
        f"not met: {'; '.join(missed)}" if missed else "met",
    ]


def seen(found: Sum) -> str:
    """Return in words how the answers ended, and what else was measured."""
    fates = found.fates
    said = [f"{fates[Fate.WHOLE]} of {len(found.answers)} whole ({found.resumed} resumed)"]
    said += [f"{fates[fate]} {fate}" for fate in (Fate.FAILED, Fate.REFUSED, Fate.ERROR, Fate.CUT) if fates[fate]]
    said += [f"{count}× {code}" for code, count in found.codes.most_common(3)]
    said += [f"{found.hushed} connections closed early as if at their end"] if found.hushed else []
    said += [f"{each.name} {each.value:.4g}" for each in found.measures if each.value or each.limit != 0]
    return ", ".join(said)


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"


def show(console: Console, results: Found) -> None:
    """Print it."""
    table = Table(*HEADINGS, show_lines=True)
    for fault, found in results.items():
        table.add_row(*cells(fault, found), style="red" if fault.goal.missed(found) else None)
    console.print(table)
    for number, where in ELSEWHERE.items():
        console.print(f"{number}: {where}", highlight=False)


def write(folder: Path, results: Found, setting: dict[str, Any]) -> None:
    """Write `chaos.json` and `chaos.md` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "chaos.json").write_text(json.dumps({"setting": setting, "faults": [_document(*each) for each in results.items()]}, indent=1))
    lines = [f"| {' | '.join(HEADINGS)} |", "|---" * len(HEADINGS) + "|"]
    lines += [f"| {' | '.join(cell.replace('|', '/') for cell in cells(*each))} |" for each in results.items()]
    lines += ["", *(f"- {number}: {where}" for number, where in ELSEWHERE.items())]
    (folder / "chaos.md").write_text("\n".join(lines) + "\n")


def _document(fault: Fault, found: Sum) -> dict[str, Any]:
    return {
        "number": fault.number,
        "fault": fault.name,
        "trials": len(found.trials),
        "asked_for": fault.count,
        "expected": fault.expected,
        "goal": asdict(fault.goal),
        "missed": fault.goal.missed(found),
        "answers": len(found.answers),
        "fates": dict(found.fates),
        "codes": dict(found.codes),
        "resumed": found.resumed,
        "hushed": found.hushed,
        "silent": found.silent,
        "lost": found.lost,
        "duplicated": found.duplicated,
        "recovery_s": [trial.recovery_s for trial in found.trials],
        "measures": [asdict(measure) | {"met": measure.met} for measure in found.measures],
        "broken": found.broken,
        "odd": [_odd(answer) for answer in found.answers if answer.fate in (Fate.SILENT, Fate.LOST, Fate.ERROR) or answer.duplicated][:ODD],
    }


def _odd(answer: Answer) -> dict[str, Any]:
    """An answer that must not be, as far as it helps to find out why."""
    told = asdict(answer)
    told["attempts"] = len(answer.attempts)
    return told | {"fate": answer.fate, "pieces": answer.text[-80:], "words": answer.words}
