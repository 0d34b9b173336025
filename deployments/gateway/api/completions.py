"""POST /v1/completions, as older clients know it."""

from fastapi import APIRouter, Request, Response

from deployments.gateway.answers import Completion as Shape
from deployments.gateway.answers import TextEvent
from deployments.gateway.bodies import BodyRoute
from deployments.gateway.caching import reusing
from deployments.gateway.choosing import chosen, handled
from deployments.gateway.completions import Completion, CompletionRequest
from deployments.gateway.context import Asker, Deadline, Parts
from deployments.gateway.prompting import prompted
from deployments.gateway.replies import Stream, Whole
from deployments.gateway.several import SeveralStreams, SeveralWhole
from deployments.gateway.shapes import gives

router = APIRouter(route_class=BodyRoute)


@router.post("/v1/completions", response_class=Response, responses=gives(Shape, stream=TextEvent))
async def create(body: CompletionRequest, request: Request, parts: Parts, caller: Asker, deadline_s: Deadline) -> Response:
    """Answer one prompt, or several side by side, streamed or whole."""
    model = await chosen(parts, caller, body.model)
    store_id = await parts.default_store(caller) if model.retrieves else None
    turns = body.turns(caller, parts.settings, parts.store.clock(), store_id, deadline_s)
    turns = await handled(parts, model, turns, request.headers, body.service_tier)
    turns = await prompted(parts, turns, None, (body.model_extra or {}).get("user"))
    turns = await reusing(parts, turns, request.headers)
    include_usage = bool(body.stream_options and body.stream_options.include_usage)
    shape = Completion(turns, body.n or 1, include_usage, bool(body.echo))
    if body.stream:
        return Stream(parts, turns[0], shape) if len(turns) == 1 else SeveralStreams(parts, turns, shape)
    return Whole(parts, turns[0], shape) if len(turns) == 1 else SeveralWhole(parts, turns, shape)
