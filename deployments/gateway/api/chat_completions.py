"""POST /v1/chat/completions."""

from fastapi import APIRouter, Response

from deployments.core.types import DIRECT
from deployments.gateway.context import Asker, Parts
from deployments.gateway.replies import Stream, Whole
from deployments.gateway.wire import ChatBody, ChatRequest, ChatStream

router = APIRouter()


@router.post("/v1/chat/completions", response_class=Response)
async def create(body: ChatRequest, parts: Parts, caller: Asker) -> Response:
    """Answer a conversation, streamed or whole."""
    store_id = None if body.model == DIRECT else await parts.default_store(caller)
    turn = body.turn(caller, parts.settings, parts.store.clock(), store_id)
    if body.stream:
        usage = bool(body.stream_options and body.stream_options.include_usage)
        return Stream(parts, turn, ChatStream(turn, usage))
    return Whole(parts, turn, ChatBody(turn))
