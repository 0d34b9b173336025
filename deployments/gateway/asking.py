"""From a request for a response to the turn that answers it: what it refers to is looked up, and the outcome is kept."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import msgspec
from starlette.requests import Request

from deployments.core.choices import arms
from deployments.core.errors import InvalidRequest, NotFound
from deployments.core.models import Model
from deployments.core.responses import Item, StoredResponse
from deployments.core.run import Keep, forget
from deployments.core.types import Delta, Finished, Message, Opened, Principal, Query, Turn, Usage
from deployments.gateway.approved import approved
from deployments.gateway.choosing import chosen, handled
from deployments.gateway.context import Context
from deployments.gateway.events import ResponseEvents
from deployments.gateway.items import messages
from deployments.gateway.prompting import echoed, prompted
from deployments.gateway.responses import Plan, ResponseRequest, window

MAX_CHAIN = 200
"""Responses that `previous_response_id` reaches back over."""

_encode = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True)
class Asked:
    """A response that has been asked for: the turn, how it looks on the wire, and whether it outlives its connection."""

    plan: Plan
    turn: Turn
    inputs: tuple[Item, ...]
    outlives: bool

    def events(self) -> ResponseEvents:
        """A fresh encoder of its events."""
        return ResponseEvents(self.plan.snapshot, self.plan.include_results, seams=self.plan.seams)


EVENTS = frozenset({"queue", "failover"})
"""Events of ours that a caller may ask for."""


class Memory:
    """The latest response of one connection, which may be gone on with though it is not stored."""

    def __init__(self) -> None:
        self._id = ""
        self._messages: tuple[Message, ...] = ()

    def keep(self, asked: Asked, events: ResponseEvents) -> None:
        """Remember a response that has ended well, in place of the one before."""
        if events.status in ("completed", "incomplete"):
            said = [message for message in asked.turn.messages if message.role != "system"]
            self._id, self._messages = asked.turn.id, (*said, *messages([item.body for item in events.outputs()]))
        else:
            self._id = ""

    def recall(self, response_id: str) -> tuple[Message, ...] | None:
        """What was said up to a response; None where it is not the latest."""
        return self._messages if response_id == self._id else None


def outlives(request: Request) -> bool:
    """Whether the caller wants the answer to go on when its connection ends; raises InvalidRequest for a value nobody knows."""
    return outliving(request.headers.get("x-headrace-on-disconnect"), "x-headrace-on-disconnect")


def wished(request: Request) -> frozenset[str]:
    """The events beside OpenAI's that the caller wants, of `queue` and `failover`; raises InvalidRequest for one that nobody knows."""
    wishes = frozenset(word.strip() for word in request.headers.get("x-headrace-events", "").split(",")) - {""}
    if wishes - EVENTS:
        raise InvalidRequest(f"x-headrace-events is a list of {', '.join(sorted(EVENTS))}", param="x-headrace-events", code="invalid_value")
    return wishes


def outliving(wish: object, param: str) -> bool:
    """`continue` or `cancel`, the default."""
    if wish not in (None, "cancel", "continue"):
        raise InvalidRequest(f"{param} is 'cancel' or 'continue'", param=param, code="invalid_value")
    return wish == "continue"


async def ask(
    parts: Context,
    caller: Principal,
    body: ResponseRequest,
    goes_on: bool = False,
    memory: Memory | None = None,
    deadline_s: float | None = None,
    seams: bool = False,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> Asked:
    """What is asked for, with everything it refers to; raises InvalidRequest, NoSuchModel, NotFound, Unsupported or ContextTooLong."""
    model = await chosen(parts, caller, body.model)
    store_id = await _searched(parts, caller, body, model)
    plan = body.plan(caller, parts.settings, parts.store.clock(), store_id, model.retrieves)
    plan = msgspec.structs.replace(plan, seams=seams)
    if goes_on and not plan.store:
        raise InvalidRequest("a response that outlives its connection is stored", param="store", code="invalid_value")
    inputs = await _resolved(parts, caller, plan)
    history = await _history(parts, caller, plan, memory or Memory())
    said = window(
        (*history, *messages([item.body for item in inputs])), parts.settings.gateway.max_input_tokens, plan.snapshot["truncation"]
    )
    turn = msgspec.structs.replace(
        plan.turn,
        messages=(*plan.turn.messages, *said),
        deadline_s=deadline_s or plan.turn.deadline_s,
        approvals=await approved(parts.store.of(caller), plan.snapshot, inputs),
    )
    (turn,) = await handled(parts, model, [turn], headers, body.service_tier, body.pictured)
    (turn,) = await prompted(parts, [turn], body.prompt, body.safety_identifier or body.user)
    plan = msgspec.structs.replace(plan, snapshot=plan.snapshot | echoed(body.prompt, turn))
    return Asked(plan, turn, inputs, bool(plan.snapshot["background"]) or goes_on)


async def _searched(parts: Context, caller: Principal, body: ResponseRequest, model: Model) -> str | None:
    """The vector store that the question is answered from: the one it names, where that is the caller's, else the caller's first."""
    if not model.retrieves and not body.searches:
        return None
    if body.wanted_store:
        with contextlib.suppress(NotFound):  # the plan says what is wrong, and where
            await parts.store.of(caller).require(body.wanted_store)
            return body.wanted_store
    return await parts.default_store(caller)


async def enqueue(parts: Context, asked: Asked) -> list[tuple[bytes, bytes]]:
    """Write down a response that outlives its connection, and have a worker take it; returns the headers of its caller's limits.

    It is admitted now, as far as the limits go, and again by the worker, who waits for a slot and holds the tokens. Raises what
    admission refuses with.
    """
    async with parts.gate.admit(asked.turn.principal, await parts.gate.want(asked.turn, slot=False)) as lease:
        lease.free = True
    await parts.store.of(asked.turn.principal).responses.add(stored(asked), asked.inputs, _encode(asked.turn))
    await parts.wake()
    return lease.headers


async def prewarm(parts: Context, asked: Asked) -> list[Delta]:
    """Embed and search early, so that both are warm when the question comes; returns the log of a response that says nothing."""
    turn, stages = asked.turn, parts.stages
    if turn.store_id and turn.question.strip():
        vector = (await stages.embeds.embed([turn.question], turn.principal))[0]
        await stages.retrieves.search(Query(turn.principal, turn.store_id, turn.question, vector))
    log: list[Delta] = [Opened(0), Finished(1, "stop", Usage(), int(parts.store.clock()))]
    await keeper(parts, asked)(log)
    return log


def keeper(parts: Context, asked: Asked) -> Keep:
    """What keeps a response whose connection is open, once it has ended."""
    if not asked.plan.store:
        return forget

    async def keep(log: Sequence[Delta]) -> None:
        events = asked.events()
        events.start()
        events.feed(log)
        ended = msgspec.structs.replace(stored(asked), status=events.status, body=events.body())
        await parts.store.of(asked.turn.principal).responses.add(ended, asked.inputs, outputs=events.outputs())

    return keep


def stored(asked: Asked) -> StoredResponse:
    """The row of a response that has not ended."""
    shown, turn = asked.plan.snapshot, asked.turn
    body, previous = msgspec.json.encode(shown), shown["previous_response_id"]
    made_with = turn.prompt or None, arms(turn.choices) or None
    state = shown["status"], shown["background"], turn.created, previous, turn.conversation_id
    return StoredResponse(turn.id, *state, asked.plan.asked, body, *made_with)


async def _resolved(parts: Context, caller: Principal, plan: Plan) -> tuple[Item, ...]:
    """The input with every reference in place of what it names."""
    responses = parts.store.of(caller).responses
    items: list[Item] = []
    for place, item in enumerate(plan.inputs):
        if name := plan.references.get(place):
            try:
                found = await responses.item(name)
            except NotFound:
                raise InvalidRequest(f"no item with the id '{name}'", param=f"input[{place}].id", code="item_not_found") from None
            items.append(found)
        else:
            items.append(item)
    return tuple(items)


async def _history(parts: Context, caller: Principal, plan: Plan, memory: Memory) -> tuple[Message, ...]:
    """What was said before, as far as the request names it; a conversation is brought to mind by the flow."""
    mine = parts.store.of(caller)
    if plan.turn.conversation_id:
        await mine.conversations.get(plan.turn.conversation_id)
    name = plan.snapshot["previous_response_id"]
    if not name:
        return ()
    if (said := memory.recall(name)) is not None:
        return said
    try:
        chain = await mine.responses.chain(name, MAX_CHAIN)
    except NotFound:
        message = f"no response with the id '{name}'"
        raise InvalidRequest(message, param="previous_response_id", code="previous_response_not_found") from None
    return messages([item.body for items in chain for item in items])
