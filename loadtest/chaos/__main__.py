"""`python -m loadtest.chaos` injects faults into a loaded stack of its own, one after the other, and tells what its clients saw."""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from loadtest.bench.headrace import LAPTOP
from loadtest.bench.processes import Stuck, obey_sigterm
from loadtest.chaos.account import Sum
from loadtest.chaos.report import cells, show, write
from loadtest.chaos.scene import Fault, played
from loadtest.chaos.stack import Stack, started
from loadtest.chaos.table import FAULTS, chosen
from loadtest.setting import facts

WIDE = 200
"""Columns of the table where there is no terminal that has its own."""

STOPPED = 130
"""Exit code after Ctrl-C, as shells count it."""

TRIAL_S = 2400.0
"""An injection that is not over by then is given up."""


def arguments() -> argparse.ArgumentParser:
    """Return the command line."""
    epilog = "\n".join(
        ["Faults:", *(f"  {fault.number:5s}{fault.name}" for fault in FAULTS), "", "The exit code is 1 when a goal is missed."]
    )
    parser = argparse.ArgumentParser(
        "python -m loadtest.chaos", None, __doc__, epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--only", default="", metavar="1,6", help="numbers of faults, comma-separated; one without its letter means all of it")
    add("--repeat", type=int, default=0, help="injections of each (default: 1, with --full as many as the list asks for)")
    add("--full", action="store_true", help="as many repetitions, clients and minutes as the list asks for: hours")
    add("--out", type=Path, default=Path("reports/chaos"), help="folder of chaos.json and chaos.md")
    add("--config", default=LAPTOP, help="of the stack it starts")
    return parser


async def chaos(options: argparse.Namespace, faults: Sequence[Fault], console: Console, results: dict[Fault, Sum]) -> None:
    """Inject the faults and add what was found to `results`."""
    obey_sigterm()
    console.log("starting the stack")
    async with started(options.config) as stack:
        for fault in faults:
            results[fault] = found = Sum()
            for number in range(options.repeat or (fault.count if options.full else 1)):
                console.log(f"{fault.number} {fault.name}, {number + 1}", highlight=False)
                try:
                    await _once(fault, stack, options.full, found)
                except (Stuck, OSError) as error:
                    found.broken = str(error)
                    break
            console.log(", ".join(cells(fault, found)[4:9]) + f": {cells(fault, found)[-1]}", highlight=False, markup=False)


async def _once(fault: Fault, stack: Stack, full: bool, found: Sum) -> None:
    try:
        async with asyncio.timeout(TRIAL_S):
            found.trials.append(await played(fault, stack, full))
    except TimeoutError as error:
        raise Stuck(f"not over after {TRIAL_S:.0f} s") from error


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; the exit code is 1 when a goal was missed, 2 for a fault that is not known, 130 when it was stopped."""
    parser = arguments()
    options = parser.parse_args(argv)
    try:
        faults = chosen(options.only)
    except ValueError as error:
        parser.error(str(error))
    console = Console(width=None if sys.stdout.isatty() else WIDE)
    results: dict[Fault, Sum] = {}
    setting, code = facts(), 0
    try:
        asyncio.run(chaos(options, faults, console, results))
    except (KeyboardInterrupt, asyncio.CancelledError):
        code = STOPPED
    except Stuck as error:
        console.print(str(error), style="red", highlight=False, markup=False)
        code = 1
    results = {fault: found for fault, found in results.items() if found.trials or found.broken}
    if results:
        show(console, results)
        write(options.out, results, setting)
    return code or int(any(fault.goal.missed(found) for fault, found in results.items()))


if __name__ == "__main__":
    sys.exit(main())
