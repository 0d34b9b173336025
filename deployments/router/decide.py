"""The routing decision itself; pure."""

from deployments.core import config
from deployments.core.errors import NoSuchModel
from deployments.core.types import DIRECT, MODELS, Route, Turn, Vector


def decide(turn: Turn, vector: Vector, settings: config.Generator) -> Route:
    """Where a turn goes whose question has that embedding; raises NoSuchModel.

    `headrace` is answered from passages, `headrace-direct` never.
    """
    if turn.model not in MODELS:
        raise NoSuchModel(f"the model '{turn.model}' does not exist; there are {', '.join(MODELS)}", param="model")
    if turn.model == DIRECT:
        return Route(retrieve=False, context_tokens=0, reason="the model answers without retrieval")
    return Route(retrieve=True, context_tokens=settings.context_tokens, reason="the model answers from passages")
