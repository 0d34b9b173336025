"""/v1/conversations: sessions that the server keeps."""

from typing import Any, Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from deployments.core.conversations import Conversation
from deployments.core.errors import Unsupported
from deployments.core.responses import Item
from deployments.gateway import answers
from deployments.gateway.answers import Items
from deployments.gateway.bodies import BodyRoute
from deployments.gateway.context import AfterItem, Asker, PageSize, Parts
from deployments.gateway.items import RawItem, normalised, page, reference
from deployments.gateway.shapes import Deleted, gives
from deployments.gateway.wire import Labels

router = APIRouter(route_class=BodyRoute)

MAX_ITEMS = 20
"""Items of one request."""


class NewConversation(BaseModel):
    """POST /v1/conversations."""

    model_config = ConfigDict(extra="ignore")

    metadata: Labels | None = None
    items: list[RawItem] | None = Field(default=None, max_length=MAX_ITEMS)


class Update(BaseModel):
    """POST /v1/conversations/{id}."""

    model_config = ConfigDict(extra="ignore")

    metadata: Labels


class NewItems(BaseModel):
    """POST /v1/conversations/{id}/items."""

    model_config = ConfigDict(extra="ignore")

    items: list[RawItem] = Field(min_length=1, max_length=MAX_ITEMS)


@router.post("/v1/conversations", responses=gives(answers.Conversation))
async def create(parts: Parts, caller: Asker, body: NewConversation | None = None) -> dict[str, Any]:
    """Begin a conversation, with items or without."""
    body = body or NewConversation()
    return _shape(await parts.store.of(caller).conversations.add(body.metadata or {}, _items(body.items or [])))


@router.get("/v1/conversations/{conversation_id}", responses=gives(answers.Conversation))
async def retrieve(conversation_id: str, parts: Parts, caller: Asker) -> dict[str, Any]:
    """A conversation without its items."""
    return _shape(await parts.store.of(caller).conversations.get(conversation_id))


@router.post("/v1/conversations/{conversation_id}", responses=gives(answers.Conversation))
async def update(conversation_id: str, body: Update, parts: Parts, caller: Asker) -> dict[str, Any]:
    """Put other metadata in place of what was there."""
    return _shape(await parts.store.of(caller).conversations.update(conversation_id, body.metadata))


@router.delete("/v1/conversations/{conversation_id}", responses=gives(Deleted))
async def delete(conversation_id: str, parts: Parts, caller: Asker) -> dict[str, Any]:
    """Delete a conversation with its items."""
    await parts.store.of(caller).conversations.delete(conversation_id)
    return {"id": conversation_id, "object": "conversation.deleted", "deleted": True}


@router.post("/v1/conversations/{conversation_id}/items", response_class=Response, responses=gives(Items))
async def add_items(conversation_id: str, body: NewItems, parts: Parts, caller: Asker) -> Response:
    """Put items at the end."""
    items = _items(body.items)
    await parts.store.of(caller).conversations.add_items(conversation_id, items)
    return _json(page(items, len(items)))


@router.get("/v1/conversations/{conversation_id}/items", response_class=Response, responses=gives(Items))
async def list_items(
    conversation_id: str,
    parts: Parts,
    caller: Asker,
    after: AfterItem = "",
    limit: PageSize = 20,
    order: Literal["asc", "desc"] = "desc",
) -> Response:
    """Items in order."""
    found = await parts.store.of(caller).conversations.items(conversation_id, after, limit + 1, newest_first=order == "desc")
    return _json(page(found, limit))


@router.get("/v1/conversations/{conversation_id}/items/{item_id}", response_class=Response, responses=gives(answers.Item))
async def retrieve_item(conversation_id: str, item_id: str, parts: Parts, caller: Asker) -> Response:
    """One item."""
    return _json((await parts.store.of(caller).conversations.item(conversation_id, item_id)).body)


@router.delete("/v1/conversations/{conversation_id}/items/{item_id}", responses=gives(answers.Conversation))
async def delete_item(conversation_id: str, item_id: str, parts: Parts, caller: Asker) -> dict[str, Any]:
    """Take an item out; answers with the conversation."""
    return _shape(await parts.store.of(caller).conversations.delete_item(conversation_id, item_id))


def _items(raw: list[dict[str, Any]]) -> list[Item]:
    items = [normalised(item, f"items[{place}]") for place, item in enumerate(raw)]
    for place, item in enumerate(items):
        if reference(item):
            message = "a conversation keeps items themselves, not references"
            raise Unsupported(message, param=f"items[{place}].type", code="unsupported_value")
    return items


def _shape(conversation: Conversation) -> dict[str, Any]:
    fields = {"id": conversation.id, "object": "conversation", "created_at": conversation.created_at}
    return fields | {"metadata": conversation.metadata}


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")
