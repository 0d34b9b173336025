"""What locust loads: the users, the shape, and the options they need; `loadtest.run` calls it with everything filled in.

The gates are judged elsewhere, from the journal, when locust has ended.
"""

import json
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import gevent
from locust import events
from locust.env import Environment

from loadtest.journal import Journal
from loadtest.scenario import names
from loadtest.sessions import Session
from loadtest.shapes import Stages
from loadtest.users import Arrivals
from loadtest.watch import Watch

__all__ = ["Arrivals", "Session", "Stages"]


@events.init_command_line_parser.add_listener
def options(parser: ArgumentParser) -> None:
    """Add what `loadtest.run` passes on."""
    add = parser.add_argument
    add("--scenario", choices=names(), default="burst")
    add("--journal", default="reports/raw.jsonl", help="one JSON object a request")
    add("--client", default="reports/client.json", help="how busy the load generator was")
    add("--key-file", action="append", default=[], help="a file with an API key; several make several tenants")
    add("--model", default="", help="instead of the scenario's")
    add("--data", default="", help="the folder of public data sets")
    add("--upstream-tokens", type=int, default=0, help="how long an answer is, where that is known")
    add("--load-factor", type=float, default=1.0)
    add("--time-factor", type=float, default=1.0)
    add("--turns", type=int, default=0)


@events.init.add_listener
def begin(environment: Environment, **_: Any) -> None:
    """Start with an empty journal, and show how the run is going."""
    chosen = environment.parsed_options
    if chosen is None:
        raise RuntimeError("this file is for the locust command line")
    Journal(Path(chosen.journal)).clear()
    watch = Watch(environment, chosen.scenario)
    gevent.spawn(watch.run)

    @environment.events.quitting.add_listener
    def end(environment: Environment, **_: Any) -> None:
        Path(chosen.client).write_text(json.dumps({"cpu_percent": round(watch.busiest_percent, 1)}))
        environment.process_exit_code = 1 if environment.runner and environment.runner.exceptions else 0
