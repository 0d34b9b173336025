"""Serve itself on the near side: how its stages stand."""

import asyncio
import time
from typing import Any, cast

import ray
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE  # `serve.status` does not tell how many should run

from deployments.gateway.board import Stage

EVERY_S = 2.0
"""No oftener is Serve's controller asked, however many ask here."""
PATIENCE_S = 5.0
"""How long it may take to answer."""


class ServeBoard:
    """Implements Board; what it shows is up to `EVERY_S` old."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._seen: list[Stage] = []
        self._until_s = 0.0

    async def stages(self) -> list[Stage]:
        """Every stage. Raises TimeoutError where the controller does not answer, and what Ray raises where there is none."""
        async with self._turn:
            if time.monotonic() >= self._until_s:
                async with asyncio.timeout(PATIENCE_S):
                    controller = await asyncio.to_thread(ray.get_actor, SERVE_CONTROLLER_NAME, SERVE_NAMESPACE)
                    details = await cast(Any, controller).get_serve_instance_details.remote()
                self._seen, self._until_s = stages(details), time.monotonic() + EVERY_S
            return self._seen


def stages(details: dict[str, Any]) -> list[Stage]:
    """The stages that Serve's details tell of (`ray.serve.schema.ServeInstanceDetails`, as builtins)."""
    return [
        Stage(
            name,
            str(getattr(one["status"], "value", one["status"])).lower(),
            one["target_num_replicas"],
            sum(getattr(replica["state"], "value", replica["state"]) == "RUNNING" for replica in one["replicas"]),
        )
        for application in details["applications"].values()
        for name, one in sorted(application["deployments"].items())
    ]
