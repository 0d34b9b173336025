"""The routing decision itself; pure."""

import msgspec

from deployments.core.config import Settings
from deployments.core.models import DIRECT
from deployments.core.types import Route, Turn, Vector
from deployments.router.score import Complexity


def decide(turn: Turn, vector: Vector, settings: Settings, complexity: Complexity | None) -> Route:
    """Where a turn goes whose question has that embedding.

    Its model is answered from passages where it is one that retrieves and there is a store to find them in. With a `complexity` the route
    has a tier: the large one from the threshold of the tenant on, or that of the settings. `flex` halves what goes there, `priority` what
    does not, as a score is a share of the questions; a turn without the time for it does not go there.
    """
    route = _grounding(turn, settings.generator.context_tokens)
    if complexity is None:
        return route
    hurried_s = settings.router.hurried_s
    if turn.deadline_s < hurried_s:
        return msgspec.structs.replace(route, tier="small", reason=f"{route.reason}; there are less than {hurried_s:g} s")
    score, threshold = complexity.score(turn.question, vector), _threshold(turn, settings.router.threshold)
    tier, side = ("large", "not under") if score >= threshold else ("small", "under")
    service = "" if turn.handling.service == "default" else f" for {turn.handling.service}"
    return msgspec.structs.replace(route, tier=tier, reason=f"{route.reason}; complexity {score:.2f} is {side} {threshold:.2f}{service}")


def _threshold(turn: Turn, usual: float) -> float:
    handling = turn.handling
    threshold = usual if handling.threshold is None else handling.threshold
    if handling.service == "default":
        return threshold
    return threshold / 2 if handling.service == "priority" else (1 + threshold) / 2


def _grounding(turn: Turn, context_tokens: int) -> Route:
    if turn.model == DIRECT or not turn.handling.retrieves:
        return Route(retrieve=False, context_tokens=0, reason="the model answers without retrieval")
    if not turn.store_id:
        return Route(retrieve=False, context_tokens=0, reason="there is nothing to search")
    return Route(retrieve=True, context_tokens=context_tokens, reason="the model answers from passages")
