"""The model that a request names: whether its caller may name it, and how turns are handled that do."""

from collections.abc import Mapping, Sequence

import msgspec

from deployments.core.catalogue import handling
from deployments.core.errors import InvalidRequest, Unsupported
from deployments.core.handling import service_of
from deployments.core.models import Model
from deployments.core.spans import TRACEPARENT, sound
from deployments.core.types import Principal, Turn
from deployments.gateway.context import Context
from deployments.gateway.pictures import bounded
from deployments.gateway.wire import known

ROUTE = "x-headrace-route"
"""`1` asks for the header of the same name in the answer: where the turn went, and why."""
TIMING = "x-headrace-timing"
"""`1` asks where the time of the turn went: its stages as `server-timing`, and at the end of a stream as a comment."""


async def chosen(parts: Context, caller: Principal, name: str) -> Model:
    """The model of that name; raises NoSuchModel where there is none, or not for this caller."""
    models = await parts.catalogue.all(parts.store)
    known(name, caller, tuple(models))
    return models[name]


async def handled(
    parts: Context, model: Model, turns: Sequence[Turn], headers: Mapping[str, str], service: str | None = None, pictured: str | None = None
) -> list[Turn]:
    """The turns of one request as its model, its tenant and its headers want them handled; `pictured` names its first image.

    Raises InvalidRequest, or Unsupported where the model has images to see and can not.
    """
    shows_route, shows_timing = _wanted(headers, ROUTE), _wanted(headers, TIMING)
    first = turns[0]
    if any(message.images for message in first.messages):
        bounded(first.messages, parts.settings.gateway, pictured or "input")
        _see(parts, model, pictured or "input")
    policy = await parts.keys.policy(first.principal)
    found = msgspec.structs.replace(
        handling(model),
        threshold=policy.threshold,
        service=service_of(service),
        shows_route=shows_route,
        shows_timing=shows_timing,
    )
    trace = sound(headers.get(TRACEPARENT, ""))
    return [msgspec.structs.replace(turn, handling=found, trace=trace) for turn in turns]


def _wanted(headers: Mapping[str, str], name: str) -> bool:
    """Whether a header asks for something; raises InvalidRequest where it is neither 0 nor 1."""
    if (value := headers.get(name, "0")) not in ("0", "1"):
        raise InvalidRequest(f"{name} is 0 or 1", param=name, code="invalid_value")
    return value == "1"


def _see(parts: Context, model: Model, param: str) -> None:
    backends = model.upstreams(parts.settings.generator.upstreams)
    if not any("vision" in one.abilities for one in backends):
        raise Unsupported(f"the model '{model.name}' takes text only", param=param, code="unsupported_value")
