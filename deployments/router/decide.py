"""The routing decision itself; pure."""

import msgspec

from deployments.core.config import Settings
from deployments.core.errors import NoSuchModel
from deployments.core.types import DIRECT, MODELS, Route, Turn, Vector
from deployments.router.score import Complexity


def decide(turn: Turn, vector: Vector, settings: Settings, complexity: Complexity | None) -> Route:
    """Where a turn goes whose question has that embedding; raises NoSuchModel.

    `headrace` is answered from passages where there is a store to find them in, `headrace-direct` never. With a `complexity` the route has
    a tier.
    """
    route = _grounding(turn, settings.generator.context_tokens)
    if complexity is None:
        return route
    score, threshold = complexity.score(turn.question, vector), settings.router.threshold
    tier, side = ("large", "not under") if score >= threshold else ("small", "under")
    return msgspec.structs.replace(route, tier=tier, reason=f"{route.reason}; complexity {score:.2f} is {side} {threshold:.2f}")


def _grounding(turn: Turn, context_tokens: int) -> Route:
    if turn.model not in MODELS:
        raise NoSuchModel(f"the model '{turn.model}' does not exist; there are {', '.join(MODELS)}", param="model")
    if turn.model == DIRECT:
        return Route(retrieve=False, context_tokens=0, reason="the model answers without retrieval")
    if not turn.store_id:
        return Route(retrieve=False, context_tokens=0, reason="there is nothing to search")
    return Route(retrieve=True, context_tokens=context_tokens, reason="the model answers from passages")
