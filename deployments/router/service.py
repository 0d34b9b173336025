"""The router as a Serve deployment."""

from functools import cached_property

from deployments.core.config import Settings
from deployments.core.service import begin
from deployments.core.timings import working
from deployments.core.types import Route, Turn, Vector
from deployments.router.decide import decide
from deployments.router.score import Complexity


class Router:
    """Implements Routes on the far side of a handle."""

    def __init__(self, settings: Settings):
        begin("router", settings)
        self._settings = settings
        self._tiered = settings.generator.tiered

    @cached_property
    def _complexity(self) -> Complexity:
        return Complexity.load()

    async def route(self, turn: Turn, vector: Vector, trace: str = "") -> Route:
        """Where a turn goes; a model of the catalogue may have tiers of its own. `trace` is the caller's span."""
        tiered = self._tiered or turn.handling.tiered
        with working("route", "headrace.decide", trace):
            return decide(turn, vector, self._settings, self._complexity if tiered else None)

    async def ping(self) -> None:
        """Answer."""
