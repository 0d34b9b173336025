"""Serve itself on the near side: how its stages stand."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

import ray
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE  # `serve.status` does not tell how many should run

from deployments.gateway.board import Stage

EVERY_S = 2.0
"""No oftener is Serve's controller asked, however many ask here."""
PATIENCE_S = 5.0
"""How long it may take to answer."""

_logger = logging.getLogger("headrace.board")


async def details() -> dict[str, Any]:
    """What Serve's controller tells of itself (`ray.serve.schema.ServeInstanceDetails`, as builtins)."""
    controller = await asyncio.to_thread(ray.get_actor, SERVE_CONTROLLER_NAME, SERVE_NAMESPACE)
    return await cast(Any, controller).get_serve_instance_details.remote()


class ServeBoard:
    """Implements Board; what it shows is up to `EVERY_S` old."""

    def __init__(self, ask: Callable[[], Awaitable[dict[str, Any]]] = details, clock: Callable[[], float] = time.monotonic):
        self._ask, self._clock = ask, clock
        self._turn = asyncio.Lock()
        self._seen: list[Stage] | None = None
        self._until_s: float | None = None

    async def stages(self) -> list[Stage] | None:
        """Every stage; None where the controller does not say."""
        async with self._turn:
            if self._until_s is None or self._clock() >= self._until_s:
                self._seen = await self._look()
                self._until_s = self._clock() + EVERY_S
            return self._seen

    async def _look(self) -> list[Stage] | None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                return stages(await self._ask())
        except Exception:
            _logger.warning("Serve does not say how its stages stand", exc_info=True)
            return None


def stages(told: dict[str, Any]) -> list[Stage]:
    """The stages in Serve's details."""
    return [
        Stage(
            name,
            str(getattr(one["status"], "value", one["status"])).lower(),
            one["target_num_replicas"],
            sum(getattr(replica["state"], "value", replica["state"]) == "RUNNING" for replica in one["replicas"]),
        )
        for application in told["applications"].values()
        for name, one in sorted(application["deployments"].items())
    ]
