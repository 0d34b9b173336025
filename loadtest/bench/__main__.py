"""`python -m loadtest.bench` measures headrace, two bare Serve apps and the simulator itself, one after the other."""

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console

from loadtest.bench.bare import Bare
from loadtest.bench.headrace import CASES, LAPTOP, ONE_REPLICA, UNMEASURED, Headrace
from loadtest.bench.measure import Failed, Meter, Run, Windows
from loadtest.bench.processes import Stuck, obey_sigterm
from loadtest.bench.report import compare, document, show
from loadtest.bench.targets import Direct, Endpoint, Running, Target
from loadtest.bench.upstream import Pace, Upstream, simulated
from loadtest.setting import facts

QUICK = Windows(warm_s=0.5, single_s=2.0, crowd_s=2.0, unary_s=1.0, settle_s=0.3)

WIDE = 150
"""Columns of the table where there is no terminal that has its own."""

STOPPED = 130
"""Exit code after Ctrl-C, as shells count it."""

EPILOG = """\
Nothing else should run on the machine meanwhile. Targets:
  simulator  the model server itself: what every other row is compared with
  raw        ingress and child on Ray Serve, the child passes the upstream's bytes through a streaming handle
  parsed     the same, the child reads with the openai client and writes one event a token
  headrace   the product: headrace-direct without retrieval, headrace with it
  unmeasured headrace without its metrics: what these cost
To measure a stack that runs already, start it with its generator pointed at http://127.0.0.1:SIM_PORT/v1 and give
--url, --key or --key-file, --pid (the root of its processes) and --sim-port."""


def arguments() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.bench",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--only", default="simulator,raw,parsed,headrace,unmeasured", help="targets, comma-separated (default: all)")
    add("--repeat", type=int, default=3, help="repetitions; the table shows medians")
    add("--quick", action="store_true", help="one repetition with short windows: a smoke test, no measurement")
    add("--spread", action="store_true", help="streams begin spread over one answer's length, instead of all at once")
    add("--json", type=Path, default=Path("reports/bench.json"), help="where all figures are written")
    add("--config", default=LAPTOP, help="headrace's configuration file")
    add("--ttft-ms", type=float, default=50.0, help="the simulator's time to the first token")
    add("--itl-ms", type=float, default=20.0, help="the simulator's time between tokens")
    add("--tokens", type=int, default=50, help="the length of each answer")
    add("--sim-port", type=int, default=0, help="the simulator's port (default: a free one)")
    add("--url", help="OpenAI base URL of a running headrace, instead of starting one")
    add("--key", default="none")
    add("--key-file", type=Path)
    add("--pid", type=int, help="root of the running headrace's process tree")
    return parser


def targets(options: argparse.Namespace, data: Path) -> list[Target]:
    """Return what is to be measured, in the order it was named; `data` is headrace's state."""
    known: dict[str, Target] = {
        "simulator": Direct(),
        "raw": Bare("bare raw", "raw"),
        "parsed": Bare("bare openai", "parsed"),
        "headrace": Headrace(data, options.config),
        "unmeasured": Headrace(data, options.config, "unmeasured", UNMEASURED, ONE_REPLICA | {"HEADRACE_TELEMETRY__METRICS": "false"}),
    }
    if options.url:
        key = options.key_file.read_text().strip() if options.key_file else options.key
        known["headrace"] = Running("headrace", CASES, Endpoint(options.url, key, options.pid))
    names = options.only.split(",")
    if unknown := set(names) - set(known):
        raise SystemExit(f"unknown target {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return [known[name] for name in names]


async def bench(options: argparse.Namespace, console: Console, runs: list[Run]) -> None:
    """Measure every target in every repetition, each alone, and add what was found to `runs`."""
    obey_sigterm()
    pace = Pace(options.ttft_ms, options.itl_ms, options.tokens)
    windows = replace(QUICK if options.quick else Windows(), spread=options.spread)
    repeat = 1 if options.quick else options.repeat
    with console.status("starting") as status:
        async with AsyncExitStack() as stack:
            data = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hd-", ignore_cleanup_errors=True)))
            chosen = targets(options, data)
            upstream = await stack.enter_async_context(simulated(pace, options.sim_port))
            for number in range(1, repeat + 1):
                prefix = f"repetition {number} of {repeat}, "
                first = len(runs)
                for target in chosen:
                    status.update(f"{prefix}starting {target.name}")
                    found = await _measure(target, upstream, pace, windows, lambda text, p=prefix: status.update(p + text))
                    runs += found
                    compare(runs[first:])
                    for run in found:
                        console.log(_line(run), highlight=False)


async def _measure(target: Target, upstream: Upstream, pace: Pace, windows: Windows, say: Callable[[str], None]) -> list[Run]:
    async with target.running(upstream.url) as endpoint:
        return [await Meter(case, endpoint, upstream, pace, windows, say).measure() for case in target.cases]


def _line(run: Run) -> str:
    figures = run.figures
    shown = {
        "added TTFT": f"{figures.get('added_ttft_ms', 0):.1f} ms",
        "100 streams": f"{figures.get('tokens_s_100', 0):,.0f} tokens/s",
        "TTFT p95": f"{figures.get('ttft_p95_ms_100', 0):.0f} ms",
        "CPU per 1,000": f"{figures.get('cpu_ms_per_1000_100', 0):.0f} ms",
    }
    return f"{run.case}: " + ", ".join(f"{name} {value}" for name, value in shown.items()) + (" INVALID" if run.faults else "")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit code is 1 when a run failed or was invalid, 130 when it was stopped."""
    options = arguments().parse_args(argv)
    console = Console(width=None if sys.stdout.isatty() else WIDE)
    pace = Pace(options.ttft_ms, options.itl_ms, options.tokens)
    setting = {**facts(), "pace": asdict(pace), "repeat": options.repeat, "quick": options.quick, "spread": options.spread}
    runs: list[Run] = []
    code = 0
    try:
        asyncio.run(bench(options, console, runs))
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("stopped")
        code = STOPPED
    except (Stuck, Failed) as error:
        console.print(str(error), style="red", highlight=False, markup=False)
        code = 1
    if runs:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(document(runs, setting), indent=1))
        show(console, runs, f"TTFT {pace.ttft_ms:g} ms, {pace.itl_ms:g} ms between tokens, {pace.tokens} tokens")
        console.print(f"all figures: {options.json}", highlight=False)
    return code or int(any(run.faults for run in runs))


if __name__ == "__main__":
    sys.exit(main())
