"""The worker on the near side of its handle."""

from dataclasses import dataclass

from ray.serve.handle import DeploymentHandle

from deployments.core.client import call


@dataclass(frozen=True)
class WorkerClient:
    """Wakes the worker."""

    handle: DeploymentHandle
    name: str = "worker"

    async def wake(self) -> None:
        """Have a replica look for work now instead of at its next poll."""
        await call(self.handle.wake.remote())

    async def ping(self) -> None:
        """Return once a replica has answered."""
        await call(self.handle.ping.remote())
