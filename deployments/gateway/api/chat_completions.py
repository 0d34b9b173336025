"""POST /v1/chat/completions."""

from fastapi import APIRouter, Request, Response

from deployments.gateway.answers import ChatCompletion, ChatEvent
from deployments.gateway.bodies import BodyRoute
from deployments.gateway.caching import reusing
from deployments.gateway.chat import ChatRequest
from deployments.gateway.choosing import chosen, handled
from deployments.gateway.chunks import ChatBody, ChatStream
from deployments.gateway.context import Asker, Deadline, Parts
from deployments.gateway.prompting import prompted
from deployments.gateway.replies import Stream, Whole
from deployments.gateway.several import SeveralStreams, SeveralWhole
from deployments.gateway.shapes import gives

router = APIRouter(route_class=BodyRoute)


@router.post("/v1/chat/completions", response_class=Response, responses=gives(ChatCompletion, stream=ChatEvent))
async def create(body: ChatRequest, request: Request, parts: Parts, caller: Asker, deadline_s: Deadline) -> Response:
    """Answer a conversation, streamed or whole, once or several times side by side."""
    model = await chosen(parts, caller, body.model)
    store_id = await parts.default_store(caller) if model.retrieves else None
    turns = body.turns(caller, parts.settings, parts.store.clock(), store_id, deadline_s)
    turns = await handled(parts, model, turns, request.headers, body.service_tier, body.pictured)
    turns = await prompted(parts, turns, body.prompt, (body.model_extra or {}).get("user"))
    turns = await reusing(parts, turns, request.headers)
    if body.stream:
        usage = bool(body.stream_options and body.stream_options.include_usage)
        stream = ChatStream(turns[0], usage, len(turns))
        return Stream(parts, turns[0], stream) if len(turns) == 1 else SeveralStreams(parts, turns, stream)
    whole = ChatBody(turns[0], len(turns))
    return Whole(parts, turns[0], whole) if len(turns) == 1 else SeveralWhole(parts, turns, whole)
