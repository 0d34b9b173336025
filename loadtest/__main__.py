"""`python -m loadtest SCENARIO` starts a simulator and headrace in front of it, and puts the scenario's load on them."""

import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from loadtest.bench.headrace import Headrace
from loadtest.bench.upstream import Pace, simulated
from loadtest.run import arguments, command
from loadtest.scenario import load

OWN = "a stack of its own"


async def run(argv: Sequence[str] | None) -> int:
    """Run one scenario on a stack of its own, or on `--host`, and return the exit code."""
    parser = arguments("python -m loadtest", OWN)
    parser.add_argument("--config", default=Headrace().config, help="of the stack it starts")
    options = parser.parse_args(argv)
    (options.out / options.scenario).mkdir(parents=True, exist_ok=True)
    if options.host != OWN:
        return await _locust(command(options))
    pace = load(options.scenario).upstream
    async with simulated(Pace(pace.ttft_ms, pace.itl_ms, pace.tokens)) as upstream:
        sys.stderr.write("starting headrace in front of a simulator\n")
        async with Headrace(config=options.config).running(upstream.url) as endpoint:
            with tempfile.NamedTemporaryFile("w", suffix=".key") as key:
                key.write(endpoint.key)
                key.flush()
                options.host = endpoint.url.removesuffix("/v1")
                options.simulator = upstream.url.removesuffix("/v1")
                options.key_file = [Path(key.name)]
                return await _locust(command(options))


async def _locust(words: list[str]) -> int:
    process = await asyncio.create_subprocess_exec(*words)
    return await process.wait()


if __name__ == "__main__":
    sys.exit(asyncio.run(run(None)))
