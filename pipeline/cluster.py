"""The driver process of the Ray node: starts Ray and Serve, deploys the application when told to, and ends both in order.

It talks with the supervisor by lines: it hears `deploy` on standard input, takes its end for the order to stop, and says `@ray`,
`@serve`, `@stages <ready> <all>`, `@app` and `@failed <reason>` on standard output. It dies when a part of Ray that does not come
back by itself dies.
"""

import json
import logging
import os
import queue
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import ray
from ray import serve
from ray.serve._private.api import serve_start  # `serve.start` keeps the proxy's location and options to itself
from ray.serve.schema import ServeDeploySchema

_TICK_S = 0.2
_VITAL = ("gcs_server", "raylet")


class Died(Exception):
    """A process that Ray cannot do without is gone, or the application cannot be deployed."""


def main() -> int:
    """Run the node described by the plan file named on the command line until told to stop."""
    plan = json.loads(Path(sys.argv[1]).read_text())
    orders: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_hear, args=(orders,), daemon=True).start()
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        _run(plan, orders)
    except Died as error:
        _say(f"failed {error}")
        os._exit(1)  # the supervisor ends the rest at once; Ray's own shutdown would wait seconds for what is dead
    ray.shutdown()
    return 0


def _run(plan: dict[str, Any], orders: "queue.SimpleQueue[str]") -> None:
    ray.init(
        address="local",
        namespace="serve",
        num_cpus=plan["num_cpus"],
        object_store_memory=plan["object_store_bytes"],
        include_dashboard=False,
        log_to_driver=False,
        _temp_dir=plan["temp_dir"],
    )
    signal.signal(signal.SIGTERM, lambda *_: orders.put("stop"))
    vital = [process for process in psutil.Process().children() if process.name() in _VITAL]
    _say("ray")
    config = ServeDeploySchema.model_validate(plan["serve"])
    client = serve_start(
        http_options=config.http_options.model_dump(),
        proxy_location=config.proxy_location,
        controller_options=config.controller_options,
    )
    _say("serve")
    order = _wait(orders, vital)
    if order == "deploy":
        client.deploy_apps(config)
        _watch(config.applications[0].name, orders, vital)
    serve.shutdown()


def _watch(name: str, orders: "queue.SimpleQueue[str]", vital: list[psutil.Process]) -> None:
    """Report the application's way up, then wait for the order to stop."""
    said: tuple[int, int] | None = None
    while True:
        application = serve.status().applications.get(name)
        if application is not None:
            states = [deployment.status for deployment in application.deployments.values()]
            counts = (sum(state == "HEALTHY" for state in states), len(states))
            if counts != said:
                said = counts
                _say(f"stages {counts[0]} {counts[1]}")
            if application.status == "RUNNING":
                break
            if application.status == "DEPLOY_FAILED":
                raise Died(_reason(application))
        if _wait(orders, vital, _TICK_S):
            return
    _say("app")
    _wait(orders, vital)


def _reason(application: Any) -> str:
    """Why it cannot be deployed: the first and the last line of what Serve says, and not the traceback between."""
    messages = [application.message, *(d.message for d in application.deployments.values() if d.status != "HEALTHY")]
    ends = [line for message in messages if message for line in (message.strip().splitlines()[0], message.strip().splitlines()[-1])]
    return " | ".join(dict.fromkeys(ends))


def _wait(orders: "queue.SimpleQueue[str]", vital: list[psutil.Process], patience_s: float | None = None) -> str:
    """The next order; "" where none came in time. Raises Died when a vital process is gone."""
    until = None if patience_s is None else time.monotonic() + patience_s
    while until is None or time.monotonic() < until:
        for process in vital:
            if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
                raise Died(f"process {process.pid} of Ray is gone")
        try:
            return orders.get(timeout=_TICK_S)
        except queue.Empty:
            continue
    return ""


def _hear(orders: "queue.SimpleQueue[str]") -> None:
    for line in sys.stdin:
        orders.put(line.strip())
    orders.put("stop")


def _say(words: str) -> None:
    sys.stdout.write(f"@{words}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
