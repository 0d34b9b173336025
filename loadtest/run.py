"""Puts one scenario's load on a running service, without a browser, and judges it."""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from loadtest.outcome import finish
from loadtest.replicas import Look
from loadtest.scenario import Scenario, load, names, scaled

STOP_S = 30
"""Answers under way at the end have this long to finish."""

DEMO_KEY = Path(".headrace/demo.key")
"""What `make serve` writes; taken where no key is named, for services of this machine alone."""


def epilog() -> str:
    """Return what scenarios there are, what a run leaves, and what the exit code means."""
    lines = [f"  {name:14s}{load(name).about}" for name in names()]
    return "\n".join(
        [
            "Scenarios:",
            *lines,
            "",
            "OUT/SCENARIO gets report.html with plots, seconds.csv, locust_*.csv, raw.jsonl (one object a request) and summary.json,",
            "and from a run that starts its own stack replicas.csv and memory.csv.",
            "The exit code is 0 when all gates of the scenario were met, 1 when one was missed, 3 when the load",
            "generator itself used more than 90 % of a core, so that the run says nothing.",
        ]
    )


def arguments(prog: str, host: str | None) -> argparse.ArgumentParser:
    """Return the command line; without a default host it is required."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__, epilog=epilog(), formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("scenario", choices=names(), metavar="SCENARIO", help="one of those below")
    add("--host", default=host, required=host is None, help="of a service that runs, for example http://127.0.0.1:8000")
    add(
        "--key-file",
        action="append",
        type=Path,
        default=[],
        help=f"a file with an API key, {DEMO_KEY} if there is one; several are several tenants",
    )
    add("--out", type=Path, default=Path("reports"))
    add("--data", type=Path, default=None, help="the folder of public data sets, for `trace`")
    add("--model", default="", help="instead of the scenario's")
    add("--simulator", default="", help="URL of the simulator behind the service, to look for orphaned answers")
    add("--upstream-tokens", type=int, default=0, help="how long the simulator's answers are, to find those that end too early")
    add("--load-factor", type=float, default=1.0, help="0.5 asks half as much, or holds half as many sessions")
    add("--turns", type=int, default=0, help="of each session, instead of the scenario's")
    add("--time-factor", type=float, default=1.0, help="0.1 makes every stage and every pause of a session ten times shorter")
    return parser


def parsed(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options, with the folder of the run made; ends with a message where they can't be."""
    options = parser.parse_args(argv)
    replay = load(options.scenario).replay
    if replay and (options.data is None or not (options.data / replay.file).is_file()):
        parser.error(f"{options.scenario} replays {replay.file} of the folder of data sets: --data FOLDER, make load DATA=FOLDER")
    options.folder = options.out / options.scenario
    options.folder.mkdir(parents=True, exist_ok=True)
    return options


def command(options: argparse.Namespace) -> list[str]:
    """Return the locust command for these options."""
    folder: Path = options.out / options.scenario
    values = {
        "--host": options.host,
        "--csv": folder / "locust",
        "--stop-timeout": STOP_S,
        "--loglevel": "WARNING",
        "--scenario": options.scenario,
        "--journal": folder / "raw.jsonl",
        "--client": folder / "client.json",
        "--model": options.model,
        "--data": options.data or "",
        "--upstream-tokens": options.upstream_tokens,
        "--load-factor": options.load_factor,
        "--time-factor": options.time_factor,
        "--turns": options.turns,
    }
    locustfile = Path(__file__).parent / "locustfile.py"
    words = [sys.executable, "-m", "locust", "-f", str(locustfile), "--headless", "--only-summary", "--csv-full-history"]
    words += [f"{name}={value}" for name, value in values.items() if value != ""]
    near = urlsplit(options.host).hostname in ("127.0.0.1", "localhost", "::1")
    keys = options.key_file or ([DEMO_KEY] if near and DEMO_KEY.is_file() else [])
    return words + [f"--key-file={path}" for path in keys]


async def loaded(options: argparse.Namespace, looks: Sequence[Look] = ()) -> int:
    """Run the load, judge it, and return the exit code; that of locust where it failed itself."""
    process = await asyncio.create_subprocess_exec(*command(options))
    try:
        code = await process.wait()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    if code:
        return code
    about = {"host": options.host, "load_factor": options.load_factor, "time_factor": options.time_factor}
    return finish(options.scenario, _scenario(options), options.folder, about, options.simulator, looks)


def _scenario(options: argparse.Namespace) -> Scenario:
    return scaled(load(options.scenario), options.load_factor, options.time_factor, options.turns)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one scenario against a running service and return the exit code."""
    return asyncio.run(loaded(parsed(arguments("python -m loadtest.run", None), argv)))


if __name__ == "__main__":
    sys.exit(main())
