"""`python -m loadtest SCENARIO` starts a simulator and headrace in front of it, and puts the scenario's load on them."""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from loadtest.bench.headrace import LAPTOP, Headrace
from loadtest.bench.processes import obey_sigterm
from loadtest.bench.upstream import Pace, simulated
from loadtest.replicas import story, watched
from loadtest.run import arguments, loaded, parsed
from loadtest.scenario import load

OWN = "a stack of its own"


def pair(text: str) -> tuple[str, str]:
    """Return the two sides of NAME=VALUE; ArgumentTypeError where there are no two."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


async def run(argv: Sequence[str] | None) -> int:
    """Run one scenario on a stack of its own, or on `--host`, and return the exit code."""
    obey_sigterm()
    parser = arguments("python -m loadtest", OWN)
    parser.add_argument("--config", default=LAPTOP, help="of the stack it starts")
    parser.add_argument("--set", action="append", type=pair, default=[], metavar="HEADRACE_X=Y", help="a setting of that stack")
    parser.add_argument(
        "--fault", action="append", type=pair, default=[], metavar="NAME=P", help="of its simulator: cut=0.05, stall=0.05, error=…"
    )
    options = parsed(parser, argv)
    if options.host != OWN:
        return await loaded(options)
    scenario = load(options.scenario)
    pace = scenario.upstream
    more: dict[str, float] = {"slots": pace.slots} if pace.slots else {}
    more |= {name: float(value) for name, value in options.fault}
    async with simulated(Pace(pace.ttft_ms, pace.itl_ms, pace.tokens), more=more) as upstream:
        sys.stderr.write("starting headrace in front of a simulator\n")
        with tempfile.TemporaryDirectory(prefix="hd-", ignore_cleanup_errors=True) as folder:
            data = Path(folder)
            settings = {**scenario.stack, **dict(options.set)}
            async with Headrace(data, options.config, settings=settings).running(upstream.url) as endpoint:
                options.host = endpoint.url.removesuffix("/v1")
                options.simulator = upstream.url.removesuffix("/v1")
                options.upstream_tokens = pace.tokens
                options.key_file = [data / "demo.key"]
                if endpoint.pid is None:
                    return await loaded(options)
                async with watched(endpoint.pid) as looks:
                    code = await loaded(options, looks)
    sys.stdout.write("".join(f"{line}\n" for line in story(looks) or ["no stage scaled"]))
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """Run one scenario and return the exit code; 130 when it was stopped, as shells count it."""
    try:
        return asyncio.run(run(argv))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130


if __name__ == "__main__":
    sys.exit(main())
