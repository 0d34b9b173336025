"""The generator on the near side of its handle."""

import time
from dataclasses import dataclass

from ray.serve.handle import DeploymentHandle

from deployments.core.client import call
from deployments.core.spans import here
from deployments.core.types import Generation, Outcome


@dataclass(frozen=True)
class GeneratorClient:
    """Implements Generates over a deployment handle."""

    handle: DeploymentHandle
    name: str = "generator"

    async def generate(self, generation: Generation) -> Outcome:
        """Run one model call on a replica; cancelling this ends it there."""
        return await call(self.handle.generate.remote(generation, time.time(), here()))

    async def ping(self) -> None:
        """Return once a replica has answered."""
        await call(self.handle.ping.remote())
