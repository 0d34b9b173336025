"""Which backends can answer a call at all: by what they take beside text, and how long it may be. Pure."""

from collections.abc import Iterable

from deployments.core.errors import ContextTooLong, Overloaded, Unsupported
from deployments.core.estimate import length
from deployments.core.models import Ability, Upstream
from deployments.core.types import Generation

_PARAMS: dict[Ability, str] = {"vision": "messages", "tools": "tools", "json_schema": "response_format"}
"""Where a request asks for what not every backend has."""


def suited(upstreams: Iterable[Upstream], generation: Generation, usual_tokens: int) -> tuple[Upstream, ...]:
    """Those that can answer; `usual_tokens` is the length of an answer where the call names none.

    Raises Unsupported where none has the abilities, ContextTooLong where none that has them takes so much, and Overloaded where there
    are none at all.
    """
    able = tuple(upstreams)
    if not able:
        raise Overloaded("the model has no backends now", code="backends_out", retry_after_s=2)
    for ability in _needed(generation):
        able = tuple(one for one in able if ability in one.abilities)
        if not able:
            message = f"no backend of the model has the ability '{ability}'"
            raise Unsupported(message, param=_PARAMS[ability], code="unsupported_value")
    needed = length(generation.messages) + (generation.sampling.max_tokens or usual_tokens)
    if roomy := tuple(one for one in able if one.context_size is None or needed <= one.context_size):
        return roomy
    raise ContextTooLong("the messages and the answer are longer than the model's context", param="messages")


def _needed(generation: Generation) -> list[Ability]:
    asked: dict[Ability, bool] = {
        "vision": any(message.images for message in generation.messages),
        "tools": bool(generation.toolbox.tools),
        "json_schema": generation.sampling.schema is not None,
    }
    return [ability for ability, needed in asked.items() if needed]
