"""The router as a Serve deployment."""

from deployments.core.config import Settings
from deployments.core.types import Route, Turn, Vector
from deployments.router.decide import decide
from deployments.router.score import Complexity


class Router:
    """Implements Routes on the far side of a handle."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._complexity = Complexity.load() if settings.generator.tiered else None

    async def route(self, turn: Turn, vector: Vector) -> Route:
        """Where a turn goes; raises NoSuchModel."""
        return decide(turn, vector, self._settings, self._complexity)

    async def ping(self) -> None:
        """Answer."""
