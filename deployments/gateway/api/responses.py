"""/v1/responses: ask, follow, poll, cancel, delete."""

from dataclasses import replace
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Query, Request, Response

from deployments.core.errors import InvalidRequest
from deployments.core.jobs import EPOCHS_PER_LEASE
from deployments.core.responses import ENDED, StoredResponse
from deployments.core.telemetry import STREAM_RESUMES
from deployments.core.types import Principal
from deployments.gateway import answers
from deployments.gateway.answers import Events, Items, ResponseEvent, TokenCount
from deployments.gateway.asking import ask, enqueue, keeper, outlives, wished
from deployments.gateway.attached import Attached, AttachedBody, shared
from deployments.gateway.bodies import BodyRoute
from deployments.gateway.caching import reusing
from deployments.gateway.context import AfterItem, Asker, Context, Deadline, PageSize, Parts
from deployments.gateway.events import Event, ResponseEvents, encoder
from deployments.gateway.idempotency import attempt_of
from deployments.gateway.items import page
from deployments.gateway.replies import Stream, Whole
from deployments.gateway.responses import ResponseRequest, estimate
from deployments.gateway.shapes import Deleted, gives
from deployments.gateway.sse import ResponseBody, ResponseStream

router = APIRouter(route_class=BodyRoute)

POLL_AFTER_MS = "250"
"""How long a polling client waits before it asks again."""

_PLACE = Query(ge=-1, lt=2**53)
_AHEAD = 1000
"""A reader that resumes may have seen more than the record holds, when Valkey was wiped; not more than this."""


@router.post("/v1/responses", response_class=Response, responses=gives(answers.Response, stream=ResponseEvent))
async def create(body: ResponseRequest, request: Request, parts: Parts, caller: Asker, deadline_s: Deadline) -> Response:
    """Answer, streamed or whole; or write the question down for a worker, to be followed or polled."""
    attempt = attempt_of(request)
    if attempt.answer:
        return await _again(parts, caller, body, attempt.answer)
    wishes = wished(request)
    asked = await ask(parts, caller, body, outlives(request), deadline_s=deadline_s, seams="failover" in wishes, headers=request.headers)
    (turn,) = await reusing(parts, [asked.turn], request.headers)
    asked = replace(asked, turn=turn)
    if asked.plan.store:
        await attempt.bind(asked.turn.id)
    if not asked.outlives:
        keep = keeper(parts, asked)
        if body.stream:
            return Stream(parts, asked.turn, ResponseStream(asked.events()), keep, tells_place="queue" in wishes)
        return Whole(parts, asked.turn, ResponseBody(asked.events()), keep)
    limits = await enqueue(parts, asked)
    attempt.begun(asked.turn.id)
    if body.stream:
        return Attached(parts, caller, asked.turn.id, ResponseStream(asked.events()), limits)
    if not asked.plan.snapshot["background"]:
        return AttachedBody(parts, caller, asked.turn.id, ResponseBody(asked.events()), limits)
    queued = _json(msgspec.json.encode(asked.plan.snapshot), poll=True)
    queued.raw_headers += limits
    return queued


@router.post("/v1/responses/input_tokens", responses=gives(TokenCount))
async def input_tokens(body: ResponseRequest, parts: Parts, caller: Asker) -> dict[str, Any]:
    """How many tokens the input of such a request takes, without passages and what a conversation recalls; roughly for a hosted model."""
    asked = await ask(parts, caller, body)
    vocabulary, messages = parts.gate.vocabulary, asked.turn.messages
    tokens = await vocabulary.count(messages, asked.turn.toolbox) if vocabulary.exact else estimate(messages)
    return {"object": "response.input_tokens", "input_tokens": tokens}


@router.get("/v1/responses/{response_id}", response_class=Response, responses=gives(answers.Response, stream=ResponseEvent))
async def retrieve(
    response_id: str, parts: Parts, caller: Asker, stream: bool = False, starting_after: Annotated[int | None, _PLACE] = None
) -> Response:
    """A response as it stands; or its events, from the first or after one of them, and on as they come."""
    stored = await parts.store.of(caller).responses.get(response_id)
    if not stream:
        if starting_after is not None:
            raise InvalidRequest("starting_after goes with stream=true", param="starting_after", code="invalid_value")
        return await _as_it_stands(parts, caller, stored)
    after = -1 if starting_after is None else starting_after
    await _replayed(parts, caller, stored, after, "starting_after")
    STREAM_RESUMES.add()
    return Attached(parts, caller, response_id, ResponseStream(encoder(stored), after))


@router.get("/v1/responses/{response_id}/events", response_class=Response, responses=gives(Events))
async def list_events(
    response_id: str,
    parts: Parts,
    caller: Asker,
    after: Annotated[int, _PLACE] = -1,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """The events of a response after one of them, as far as they have come; for clients that can do nothing but GET."""
    stored = await parts.store.of(caller).responses.get(response_id)
    events, found = await _replayed(parts, caller, stored, after, "after")
    more = len(found) > limit or not events.ended
    data = b",".join(event.data for event in found[:limit])
    return _json(b'{"object":"list","data":[%b],"has_more":%b}' % (data, b"true" if more else b"false"), poll=not events.ended)


@router.post("/v1/responses/{response_id}/cancel", response_class=Response, responses=gives(answers.Response))
async def cancel(response_id: str, parts: Parts, caller: Asker) -> Response:
    """End a background response; doing so again changes nothing."""
    responses = parts.store.of(caller).responses
    if not (await responses.get(response_id)).background:
        raise InvalidRequest("only a background response can be cancelled", code="response_not_cancellable")
    await _end(parts, caller, response_id)
    return _json((await responses.get(response_id)).body)


@router.delete("/v1/responses/{response_id}", responses=gives(Deleted))
async def delete(response_id: str, parts: Parts, caller: Asker) -> dict[str, Any]:
    """Delete a response; one that still runs is ended."""
    await _end(parts, caller, response_id)
    await parts.store.of(caller).responses.delete(response_id)
    return {"id": response_id, "object": "response", "deleted": True}


@router.get("/v1/responses/{response_id}/input_items", response_class=Response, responses=gives(Items))
async def input_items(
    response_id: str,
    parts: Parts,
    caller: Asker,
    after: AfterItem = "",
    limit: PageSize = 20,
    order: Literal["asc", "desc"] = "desc",
) -> Response:
    """What a response was asked with."""
    found = await parts.store.of(caller).responses.inputs(response_id, after, limit + 1, newest_first=order == "desc")
    return _json(page(found, limit))


async def _again(parts: Context, caller: Principal, body: ResponseRequest, response_id: str) -> Response:
    """The reply to a request that a response answers already."""
    stored = await parts.store.of(caller).responses.get(response_id)
    if body.stream:
        return Attached(parts, caller, response_id, ResponseStream(encoder(stored)))
    if body.background or stored.status in ENDED:
        return await _as_it_stands(parts, caller, stored)
    return AttachedBody(parts, caller, response_id, ResponseBody(encoder(stored)))


async def _as_it_stands(parts: Context, caller: Principal, stored: StoredResponse) -> Response:
    """The stored object; where it still runs, with what its log holds."""
    if stored.status in ENDED:
        return _json(stored.body)
    events = encoder(stored)
    events.start()
    events.feed(await parts.hub.recorded(shared(caller, stored.id)))
    return _json(events.body(), poll=not events.ended)


async def _replayed(
    parts: Context, caller: Principal, stored: StoredResponse, after: int, param: str
) -> tuple[ResponseEvents, list[Event]]:
    """The events so far, those after a number apart; raises InvalidRequest where they are gone, or the number is none of theirs."""
    log = await parts.hub.recorded(shared(caller, stored.id))
    if stored.status in ENDED and not log:
        raise InvalidRequest("the events of this response are not kept any more; retrieve it without stream", code="log_expired")
    events = encoder(stored)
    found = [*events.start(), *events.feed(log)]
    if after >= len(found) and (events.ended or after > len(found) + _AHEAD):
        raise InvalidRequest(f"this response has {len(found)} events so far", param=param, code="invalid_value")
    return events, found[after + 1 :]


async def _end(parts: Context, caller: Principal, response_id: str) -> None:
    """Call a response off where it still runs: fence its log off, end it there, and keep what has been written of it."""
    responses = parts.store.of(caller).responses
    stored, fence = await responses.cancel(response_id)
    if not fence:
        return
    ref = msgspec.structs.replace(shared(caller, response_id), epoch=fence * EPOCHS_PER_LEASE)
    with parts.outbox.writer(ref) as writer:
        await writer.seize()
        await parts.hub.stop(response_id)
        last, events = writer.cancelled(), encoder(stored)
        events.start()
        events.feed([*writer.written, last])
        await responses.finish(response_id, events.status, events.body(), events.outputs())
        writer.end(last)
        await writer.drain()


def _json(body: bytes, *, poll: bool = False) -> Response:
    headers = {"openai-poll-after-ms": POLL_AFTER_MS} if poll else None
    return Response(body, headers=headers, media_type="application/json")
