"""`python -m loadtest.simulator` runs the simulator until SIGTERM or SIGINT."""

import argparse
import asyncio
import json
import resource
import signal
import sys
from collections.abc import Sequence

import uvloop

from loadtest.simulator.faults import Faults
from loadtest.simulator.ledger import Ledger
from loadtest.simulator.plan import Profile, Spread
from loadtest.simulator.server import Connection
from loadtest.simulator.service import Service
from loadtest.simulator.ticker import Ticker

EPILOG = """\
One request can ask for its own behaviour through the model name, any name followed by @ and a comma-separated list:
  sim@echo          stream the last user message back, word by word
  sim@tokens=30     that many words;  ttft=MS, itl=MS likewise
  sim@error=503     an error status;  error=429:2 adds Retry-After: 2
  sim@hang          no byte at all
  sim@stall=10      silence after 10 words;  cut=10 closes the connection there;  malformed=10 sends one broken event
  sim@error,times=2 the fault strikes only the first 2 requests with the same [[marker:NAME]] (or model name)
GET /sim/stats tells what became of every answer, POST /sim/reset forgets it. POST /sim/faults with {"error": 1.0, "status": 429} sets
the probabilities of faults from now on, all that it does not name to 0."""


def arguments() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.simulator",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1")
    add("--port", type=int, default=0, help="0 takes a free one; the port is printed as a JSON line")
    add("--seed", type=int, default=1)
    add("--ttft-ms", type=float, default=50.0, help="median time to the first token")
    add("--itl-ms", type=float, default=20.0, help="median time between tokens")
    add("--tokens", type=float, default=50.0, help="median length")
    for name in ("ttft", "itl", "tokens"):
        add(f"--{name}-sigma", type=float, default=0.0, help="log-normal spread; 0 is a fixed value")
    for name in ("error", "hang", "stall", "cut", "malformed"):
        add(f"--{name}", type=float, default=0.0, metavar="P", help="probability of this fault")
    add("--error-status", type=int, default=503)
    add("--retry-after", type=float, default=None, metavar="S", help="seconds, sent with simulated errors")
    add("--slots", type=int, default=None, metavar="N", help="answers written at once; more wait their turn")
    add("--keep", type=int, default=10_000, help="ended answers kept for /sim/stats")
    return parser


def profile(options: argparse.Namespace) -> Profile:
    """Return the behaviour the command line describes."""
    return Profile(
        ttft_s=Spread(options.ttft_ms / 1000, options.ttft_sigma),
        itl_s=Spread(options.itl_ms / 1000, options.itl_sigma),
        tokens=Spread(options.tokens, options.tokens_sigma),
        seed=options.seed,
        faults=Faults(
            options.error,
            options.hang,
            options.stall,
            options.cut,
            options.malformed,
            options.error_status,
            options.retry_after,
        ),
    )


async def serve(options: argparse.Namespace) -> None:
    """Answer requests until a signal, then close every connection."""
    loop = asyncio.get_running_loop()
    service = Service(profile(options), Ledger(options.keep), Ticker(loop), options.slots)
    connections: set[Connection] = set()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = await loop.create_server(lambda: Connection(service, connections), options.host, options.port, backlog=2048)
    sys.stdout.write(json.dumps({"port": server.sockets[0].getsockname()[1]}) + "\n")
    sys.stdout.flush()
    await stop.wait()
    server.close()
    for connection in tuple(connections):
        connection.abort()
    await server.wait_closed()


def main(argv: Sequence[str] | None = None) -> None:
    """Run the simulator with as many file descriptors as the system allows."""
    options = arguments().parse_args(argv)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(options))


if __name__ == "__main__":
    main()
