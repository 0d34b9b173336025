"""`headrace doctor`: what this machine and the running instance look like, and what to do about it."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from pipeline.manifest import LAPTOP, Unreadable, load

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


def doctor(config: Annotated[Path, typer.Option(help="The config file it is started with.")] = LAPTOP) -> None:
    """Look at ports, versions, models, disk, memory, limits and, where an instance runs, at every stage."""
    from pipeline.checkup import examine

    console = Console()
    try:
        findings = asyncio.run(examine(load(config).settings))
    except Unreadable as error:
        Console(stderr=True).print(str(error), style="red", markup=False)
        raise typer.Exit(1) from None
    table = Table(box=None, pad_edge=False)
    for heading in ("", "what", "found", "what to do"):
        table.add_column(heading)
    for finding in findings:
        colour = _COLOURS[finding.verdict]
        remedy = "" if finding.verdict == "ok" else finding.remedy
        table.add_row(f"[{colour}]{finding.verdict}[/{colour}]", finding.name, finding.text, remedy)
    console.print(table)
    if any(finding.verdict == "fail" for finding in findings):
        raise typer.Exit(1)
