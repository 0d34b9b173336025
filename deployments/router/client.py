"""The router on the near side of its handle."""

from dataclasses import dataclass

from ray.serve.handle import DeploymentHandle

from deployments.core.client import call
from deployments.core.spans import here
from deployments.core.types import Route, Turn, Vector


@dataclass(frozen=True)
class RouterClient:
    """Implements Routes over a deployment handle."""

    handle: DeploymentHandle
    name: str = "router"

    async def route(self, turn: Turn, vector: Vector) -> Route:
        """Where a turn goes."""
        return await call(self.handle.route.remote(turn, vector, here()))

    async def ping(self) -> None:
        """Return once a replica has answered."""
        await call(self.handle.ping.remote())
