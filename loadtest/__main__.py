"""`python -m loadtest SCENARIO` starts a simulator and headrace in front of it, and puts the scenario's load on them."""

import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from loadtest.bench.headrace import LAPTOP, Headrace
from loadtest.bench.processes import obey_sigterm
from loadtest.bench.upstream import Pace, simulated
from loadtest.replicas import story, watched
from loadtest.run import arguments, command
from loadtest.scenario import load

OWN = "a stack of its own"


async def run(argv: Sequence[str] | None) -> int:
    """Run one scenario on a stack of its own, or on `--host`, and return the exit code."""
    obey_sigterm()
    parser = arguments("python -m loadtest", OWN)
    parser.add_argument("--config", default=LAPTOP, help="of the stack it starts")
    options = parser.parse_args(argv)
    (options.out / options.scenario).mkdir(parents=True, exist_ok=True)
    if options.host != OWN:
        return await _locust(command(options))
    scenario = load(options.scenario)
    pace = scenario.upstream
    async with simulated(Pace(pace.ttft_ms, pace.itl_ms, pace.tokens)) as upstream:
        sys.stderr.write("starting headrace in front of a simulator\n")
        with tempfile.TemporaryDirectory(prefix="hd-", ignore_cleanup_errors=True) as folder:
            data = Path(folder)
            async with Headrace(data, options.config, settings=scenario.stack).running(upstream.url) as endpoint:
                options.host = endpoint.url.removesuffix("/v1")
                options.simulator = upstream.url.removesuffix("/v1")
                options.key_file = [data / "demo.key"]
                return await _watched(command(options), endpoint.pid, options.out / options.scenario / "replicas.csv")


async def _watched(words: list[str], root: int | None, file: Path) -> int:
    """Run locust, and tell how the stages scaled meanwhile."""
    if root is None:
        return await _locust(words)
    async with watched(root, file) as looks:
        code = await _locust(words)
    sys.stdout.write("".join(f"{line}\n" for line in story(looks) or ["no stage scaled"]))
    return code


async def _locust(words: list[str]) -> int:
    process = await asyncio.create_subprocess_exec(*words)
    try:
        return await process.wait()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one scenario and return the exit code; 130 when it was stopped, as shells count it."""
    try:
        return asyncio.run(run(argv))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130


if __name__ == "__main__":
    sys.exit(main())
