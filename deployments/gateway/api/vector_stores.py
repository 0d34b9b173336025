"""/v1/vector_stores: searchable collections of files."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from deployments.core.config import Settings
from deployments.core.errors import Unsupported
from deployments.core.store import Member, VectorStore
from deployments.gateway import shapes
from deployments.gateway.api.files import POLL_AFTER_MS, withdraw
from deployments.gateway.bodies import BodyRoute
from deployments.gateway.context import Parts, Reader, Writes
from deployments.gateway.shapes import Deleted, Members, VectorStores, gives

router = APIRouter(route_class=BodyRoute)

MAX_FILES_AT_ONCE = 500

Key = Annotated[str, StringConstraints(min_length=1, max_length=64)]
Words = Annotated[str, StringConstraints(max_length=512)]
Whole = Annotated[int, Field(ge=-(2**53), le=2**53)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Attributes = Annotated[dict[Key, bool | Whole | Number | Words], Field(max_length=16)]
Limit = Annotated[int, Query(ge=1, le=100)]
Order = Literal["asc", "desc"]
Status = Literal["in_progress", "completed", "failed", "cancelled"]


class Chunking(BaseModel):
    """How files are cut; headrace cuts along their structure, which is what `auto` asks for."""

    type: Literal["auto", "static"]


class StoreRequest(BaseModel):
    """A vector store to make."""

    model_config = ConfigDict(extra="ignore")

    name: Annotated[str, StringConstraints(max_length=256, pattern=r"^[^\x00]*$")] | None = None
    metadata: Annotated[dict[Key, Words], Field(max_length=16)] | None = None
    file_ids: Annotated[list[str], Field(max_length=MAX_FILES_AT_ONCE)] | None = None
    chunking_strategy: Chunking | None = None
    expires_after: dict[str, Any] | None = None


class MemberRequest(BaseModel):
    """A file to put into a vector store."""

    model_config = ConfigDict(extra="ignore")

    file_id: str
    attributes: Attributes | None = None
    chunking_strategy: Chunking | None = None


@router.post("/v1/vector_stores", responses=gives(shapes.VectorStore))
async def create(body: StoreRequest, parts: Parts, caller: Writes) -> dict[str, Any]:
    """Make a vector store, with files if some are named."""
    _refuse(body.chunking_strategy)
    if body.expires_after is not None:
        raise Unsupported("vector stores do not expire", param="expires_after")
    mine = parts.store.of(caller)
    files = list(dict.fromkeys(body.file_ids or ()))
    for file_id in files:
        await mine.file(file_id)
    made = await mine.add_store(body.name or "", metadata=body.metadata)
    for file_id in files:
        await mine.add_member(made.id, file_id, {})
    return _store(await mine.store(made.id))


@router.get("/v1/vector_stores", responses=gives(VectorStores))
async def stores(
    parts: Parts, caller: Reader, after: str = "", before: str = "", limit: Limit = 20, order: Order = "desc"
) -> dict[str, Any]:
    """A page of the caller's vector stores."""
    _forward_only(before)
    found = sorted(await parts.store.of(caller).stores(), key=lambda store: store.id, reverse=order == "desc")
    left = [store for store in found if not after or (store.id < after if order == "desc" else store.id > after)]
    return _page([_store(store) for store in left[: limit + 1]], limit)


@router.get("/v1/vector_stores/{store_id}", responses=gives(shapes.VectorStore))
async def retrieve(store_id: str, response: Response, parts: Parts, caller: Reader) -> dict[str, Any]:
    """One vector store, with how far its files are."""
    response.headers["openai-poll-after-ms"] = POLL_AFTER_MS
    return _store(await parts.store.of(caller).store(store_id))


@router.post("/v1/vector_stores/{store_id}/files", responses=gives(shapes.Member))
async def add(store_id: str, body: MemberRequest, parts: Parts, caller: Writes) -> dict[str, Any]:
    """Put a file into a vector store; a worker reads it in the background."""
    _refuse(body.chunking_strategy)
    return _member(await parts.store.of(caller).add_member(store_id, body.file_id, body.attributes or {}), parts.settings)


@router.get("/v1/vector_stores/{store_id}/files", responses=gives(Members))
async def members(
    store_id: str,
    response: Response,
    parts: Parts,
    caller: Reader,
    after: str = "",
    before: str = "",
    limit: Limit = 20,
    order: Order = "desc",
    status: Annotated[Status | None, Query(alias="filter")] = None,
) -> dict[str, Any]:
    """A page of the files of a vector store."""
    _forward_only(before)
    response.headers["openai-poll-after-ms"] = POLL_AFTER_MS
    found = await parts.store.of(caller).members(store_id, after, limit + 1, newest_first=order == "desc", status=status)
    return _page([_member(member, parts.settings) for member in found], limit)


@router.get("/v1/vector_stores/{store_id}/files/{file_id}", responses=gives(shapes.Member))
async def member(store_id: str, file_id: str, response: Response, parts: Parts, caller: Reader) -> dict[str, Any]:
    """How one file of a vector store stands."""
    response.headers["openai-poll-after-ms"] = POLL_AFTER_MS
    return _member(await parts.store.of(caller).member(store_id, file_id), parts.settings)


@router.delete("/v1/vector_stores/{store_id}/files/{file_id}", responses=gives(Deleted))
async def remove(store_id: str, file_id: str, parts: Parts, caller: Writes) -> dict[str, Any]:
    """Take a file out of a vector store; the file itself stays."""
    mine = parts.store.of(caller)
    held = await mine.member(store_id, file_id)
    await withdraw(parts, caller, store_id, file_id)
    await mine.remove_member(store_id, file_id)
    if held.status == "in_progress":
        await withdraw(parts, caller, store_id, file_id)
    return {"id": file_id, "object": "vector_store.file.deleted", "deleted": True}


def _refuse(chunking: Chunking | None) -> None:
    if chunking is not None and chunking.type != "auto":
        message = "headrace cuts files along their structure; leave chunking_strategy out, or send {'type': 'auto'}"
        raise Unsupported(message, param="chunking_strategy.type", code="unsupported_value")


def _forward_only(before: str) -> None:
    if before:
        raise Unsupported("pages go forward only; use after", param="before")


def _page(data: Sequence[dict[str, Any]], limit: int) -> dict[str, Any]:
    shown = list(data[:limit])
    ends = {"first_id": shown[0]["id"], "last_id": shown[-1]["id"]} if shown else {"first_id": None, "last_id": None}
    return {"object": "list", "data": shown, **ends, "has_more": len(data) > limit}


def _store(store: VectorStore) -> dict[str, Any]:
    counts = {state: store.counts.get(state, 0) for state in ("in_progress", "completed", "failed", "cancelled")}
    return {
        "id": store.id,
        "object": "vector_store",
        "created_at": store.created_at,
        "name": store.name,
        "status": "in_progress" if counts["in_progress"] else "completed",
        "usage_bytes": store.usage_bytes,
        "file_counts": {**counts, "total": sum(counts.values())},
        "last_active_at": None,
        "expires_after": None,
        "expires_at": None,
        "metadata": store.metadata,
    }


def _member(member: Member, settings: Settings) -> dict[str, Any]:
    error = {"code": member.error_code, "message": member.error_message or ""} if member.error_code else None
    static = {"max_chunk_size_tokens": settings.retriever.chunk_tokens, "chunk_overlap_tokens": 0}
    return {
        "id": member.file_id,
        "object": "vector_store.file",
        "created_at": member.created_at,
        "vector_store_id": member.store_id,
        "status": member.status,
        "last_error": error,
        "usage_bytes": member.usage_bytes,
        "attributes": member.attributes,
        "chunking_strategy": {"type": "static", "static": static},
    }
