"""`python -m loadtest.run SCENARIO` puts one scenario's load on a running service, without a browser."""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from loadtest.scenario import load, names

STOP_S = 30
"""Answers under way at the end have this long to finish."""


def epilog() -> str:
    """Return what scenarios there are."""
    lines = [f"  {name:14s}{load(name).about}" for name in names()]
    return "\n".join(
        [
            "Scenarios:",
            *lines,
            "",
            "OUT/SCENARIO gets report.html, locust_*.csv, raw.jsonl (one object a request) and summary.json, and from a run that",
            "starts its own stack replicas.csv.",
            "The exit code is 0 when all gates of the scenario were met, 1 when one was missed, 3 when the load",
            "generator itself used more than 90 % of a core, so that the run says nothing.",
        ]
    )


def arguments(prog: str, host: str | None) -> argparse.ArgumentParser:
    """Return the command line; without a default host it is required."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__, epilog=epilog(), formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("scenario", choices=names())
    add("--host", default=host, required=host is None, help="for example http://127.0.0.1:8000")
    add("--key-file", action="append", type=Path, default=[], help="a file with an API key; several make several tenants")
    add("--out", type=Path, default=Path("reports"))
    add("--model", default="", help="instead of the scenario's")
    add("--simulator", default="", help="URL of the simulator behind the service, to look for orphaned answers")
    add("--users-factor", type=float, default=1.0, help="0.5 takes half of the scenario's users")
    add("--time-factor", type=float, default=1.0, help="0.1 makes every stage ten times shorter")
    return parser


def command(options: argparse.Namespace) -> list[str]:
    """Return the locust command for these options."""
    folder: Path = options.out / options.scenario
    values = {
        "--host": options.host,
        "--html": folder / "report.html",
        "--csv": folder / "locust",
        "--stop-timeout": STOP_S,
        "--loglevel": "WARNING",
        "--scenario": options.scenario,
        "--journal": folder / "raw.jsonl",
        "--summary": folder / "summary.json",
        "--model": options.model,
        "--simulator": options.simulator,
        "--users-factor": options.users_factor,
        "--time-factor": options.time_factor,
    }
    locustfile = Path(__file__).parent / "locustfile.py"
    words = [sys.executable, "-m", "locust", "-f", str(locustfile), "--headless", "--only-summary", "--csv-full-history"]
    words += [f"{name}={value}" for name, value in values.items() if value != ""]
    return words + [f"--key-file={path}" for path in options.key_file]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one scenario against a running service and return the exit code."""
    options = arguments("python -m loadtest.run", None).parse_args(argv)
    (options.out / options.scenario).mkdir(parents=True, exist_ok=True)
    return subprocess.run(command(options), check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
