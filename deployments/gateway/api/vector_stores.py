"""/v1/vector_stores: searchable collections of files."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from deployments.core.config import Settings
from deployments.core.errors import InvalidRequest, Unsupported
from deployments.core.members import Member, Placing
from deployments.core.store import VectorStore
from deployments.gateway import shapes
from deployments.gateway.bodies import BodyRoute
from deployments.gateway.context import Parts, Reader, Writes
from deployments.gateway.filters import MAX_WHOLE, storable
from deployments.gateway.listing import After, Limit, Order, forward, page, polled
from deployments.gateway.shapes import Deleted, Members, Passages, VectorStores, gives

router = APIRouter(route_class=BodyRoute)

MAX_FILES_AT_ONCE = 500
LEAST_CHUNK_TOKENS, MOST_CHUNK_TOKENS = 100, 256
"""Bounds of a passage that callers may ask for: OpenAI's lower one, and what the embedder reads of a text."""


def _storable(text: str) -> str:
    if not storable(text):
        raise ValueError("NUL and halves of a character can not be kept")
    return text


FileId = Annotated[str, StringConstraints(max_length=64)]
Key = Annotated[str, StringConstraints(min_length=1, max_length=64), AfterValidator(_storable)]
Words = Annotated[str, StringConstraints(max_length=512), AfterValidator(_storable)]
Whole = Annotated[int, Field(ge=-MAX_WHOLE, le=MAX_WHOLE)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Attributes = Annotated[dict[Key, bool | Whole | Number | Words], Field(max_length=16)]
Labels = Annotated[dict[Key, Words], Field(max_length=16)]
Name = Annotated[str, StringConstraints(max_length=256, pattern=r"^[^\x00]*$")]
Status = Literal["in_progress", "completed", "failed", "cancelled"]


class Static(BaseModel):
    """How long a passage may be."""

    max_chunk_size_tokens: int
    chunk_overlap_tokens: int = 0


class Chunking(BaseModel):
    """How files are cut: along their structure, which is what `auto` asks for; `static` bounds a passage."""

    type: Literal["auto", "static"]
    static: Static | None = None

    def tokens(self, param: str) -> int | None:
        """The bound that was asked for; raises Unsupported for what headrace does not do."""
        if self.type == "auto":
            return None
        if self.static is None:
            raise InvalidRequest(f"{param}.static: Field required", param=f"{param}.static", code="missing_required_parameter")
        if not LEAST_CHUNK_TOKENS <= self.static.max_chunk_size_tokens <= MOST_CHUNK_TOKENS:
            message = f"a passage has {LEAST_CHUNK_TOKENS} to {MOST_CHUNK_TOKENS} tokens"
            raise Unsupported(message, param=f"{param}.static.max_chunk_size_tokens", code="unsupported_value")
        if self.static.chunk_overlap_tokens:
            message = "passages end where a section or a sentence does and do not overlap; send 0"
            raise Unsupported(message, param=f"{param}.static.chunk_overlap_tokens", code="unsupported_value")
        return self.static.max_chunk_size_tokens


class StoreUpdate(BaseModel):
    """What may be changed of a vector store."""

    model_config = ConfigDict(extra="ignore")

    name: Name | None = None
    metadata: Labels | None = None
    expires_after: dict[str, Any] | None = None


class StoreRequest(StoreUpdate):
    """A vector store to make."""

    description: Words | None = None
    file_ids: Annotated[list[FileId], Field(max_length=MAX_FILES_AT_ONCE, fail_fast=True)] | None = None
    chunking_strategy: Chunking | None = None


class MemberUpdate(BaseModel):
    """Attributes of a file of a vector store, in place of those it has; null is none."""

    model_config = ConfigDict(extra="ignore")

    attributes: Attributes | None


class MemberRequest(BaseModel):
    """A file to put into a vector store."""

    model_config = ConfigDict(extra="ignore")

    file_id: FileId
    attributes: Attributes | None = None
    chunking_strategy: Chunking | None = None

    def placing(self, param: str = "", shared: int | None = None) -> Placing:
        """How the file is put there; raises Unsupported."""
        tokens = self.chunking_strategy.tokens(f"{param}chunking_strategy") if self.chunking_strategy else shared
        return Placing(dict(self.attributes or {}), tokens)


@router.post("/v1/vector_stores", responses=gives(shapes.VectorStore))
async def create(body: StoreRequest, parts: Parts, caller: Writes) -> dict[str, Any]:
    """Make a vector store, with files if some are named."""
    tokens = body.chunking_strategy.tokens("chunking_strategy") if body.chunking_strategy else None
    _refuse(body)
    mine, wanted = parts.store.of(caller), {file_id: Placing(chunk_tokens=tokens) for file_id in body.file_ids or ()}
    made = await mine.add_store(body.name or "", metadata=body.metadata, description=body.description, wanted=wanted)
    if wanted:
        await parts.wake()
    return _store(made)


@router.get("/v1/vector_stores", responses=gives(VectorStores))
async def stores(
    parts: Parts, caller: Reader, after: After = "", before: str = "", limit: Limit = 20, order: Order = "desc"
) -> dict[str, Any]:
    """A page of the caller's vector stores."""
    forward(before)
    found = await parts.store.of(caller).stores(after, limit + 1, newest_first=order == "desc")
    return page([_store(store) for store in found], limit)


@router.get("/v1/vector_stores/{store_id}", responses=gives(shapes.VectorStore))
async def retrieve(store_id: str, response: Response, parts: Parts, caller: Reader) -> dict[str, Any]:
    """One vector store, with how far its files are."""
    polled(response)
    return _store(await parts.store.of(caller).store(store_id))


@router.post("/v1/vector_stores/{store_id}", responses=gives(shapes.VectorStore))
async def update(store_id: str, body: StoreUpdate, parts: Parts, caller: Writes) -> dict[str, Any]:
    """Change what is given; null metadata is none."""
    _refuse(body)
    labels = {} if body.metadata is None and "metadata" in body.model_fields_set else body.metadata
    return _store(await parts.store.of(caller).update_store(store_id, body.name, labels))


@router.delete("/v1/vector_stores/{store_id}", responses=gives(Deleted))
async def delete(store_id: str, parts: Parts, caller: Writes) -> dict[str, Any]:
    """Delete a vector store and all that is searched in it; the files stay."""
    await parts.holdings(caller).delete_store(store_id)
    return {"id": store_id, "object": "vector_store.deleted", "deleted": True}


@router.post("/v1/vector_stores/{store_id}/files", responses=gives(shapes.Member))
async def add(store_id: str, body: MemberRequest, parts: Parts, caller: Writes) -> dict[str, Any]:
    """Put a file into a vector store; a worker reads it in the background."""
    placing, mine = body.placing(), parts.store.of(caller)
    added = await mine.add_member(store_id, body.file_id, placing.attributes, placing.chunk_tokens)
    await parts.wake()
    return member_shape(added, parts.settings)


@router.get("/v1/vector_stores/{store_id}/files", responses=gives(Members))
async def members(
    store_id: str,
    response: Response,
    parts: Parts,
    caller: Reader,
    after: After = "",
    before: str = "",
    limit: Limit = 20,
    order: Order = "desc",
    status: Annotated[Status | None, Query(alias="filter")] = None,
) -> dict[str, Any]:
    """A page of the files of a vector store."""
    forward(before)
    polled(response)
    found = await parts.store.of(caller).members(store_id, after, limit + 1, newest_first=order == "desc", status=status)
    return page([member_shape(member, parts.settings) for member in found], limit)


@router.get("/v1/vector_stores/{store_id}/files/{file_id}", responses=gives(shapes.Member))
async def member(store_id: str, file_id: str, response: Response, parts: Parts, caller: Reader) -> dict[str, Any]:
    """How one file of a vector store stands."""
    polled(response)
    return member_shape(await parts.store.of(caller).member(store_id, file_id), parts.settings)


@router.post("/v1/vector_stores/{store_id}/files/{file_id}", responses=gives(shapes.Member))
async def describe(store_id: str, file_id: str, body: MemberUpdate, parts: Parts, caller: Writes) -> dict[str, Any]:
    """Give a file other attributes; searches go by them from now on."""
    return member_shape(await parts.holdings(caller).describe(store_id, file_id, body.attributes or {}), parts.settings)


@router.get("/v1/vector_stores/{store_id}/files/{file_id}/content", responses=gives(Passages))
async def passages(store_id: str, file_id: str, parts: Parts, caller: Reader) -> dict[str, Any]:
    """The passages that a file was cut into."""
    chunks, _ = await parts.store.of(caller).filed(store_id, file_id)
    data = [{"type": "text", "text": chunk.text} for chunk in chunks]
    return {"object": "vector_store.file_content.page", "data": data, "has_more": False, "next_page": None}


@router.delete("/v1/vector_stores/{store_id}/files/{file_id}", responses=gives(Deleted))
async def remove(store_id: str, file_id: str, parts: Parts, caller: Writes) -> dict[str, Any]:
    """Take a file out of a vector store; the file itself stays."""
    await parts.holdings(caller).remove_member(store_id, file_id)
    return {"id": file_id, "object": "vector_store.file.deleted", "deleted": True}


def member_shape(member: Member, settings: Settings) -> dict[str, Any]:
    """A file of a vector store on the wire."""
    error = {"code": member.error_code, "message": member.error_message or ""} if member.error_code else None
    static = {"max_chunk_size_tokens": member.chunk_tokens or settings.retriever.chunk_tokens, "chunk_overlap_tokens": 0}
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


def counted(counts: dict[str, int]) -> dict[str, int]:
    """How many files are in each state, and in all."""
    every = {state: counts.get(state, 0) for state in ("in_progress", "completed", "failed", "cancelled")}
    return {**every, "total": sum(every.values())}


def _refuse(body: StoreUpdate) -> None:
    if body.expires_after is not None:
        raise Unsupported("vector stores do not expire; delete them", param="expires_after")


def _store(store: VectorStore) -> dict[str, Any]:
    counts = counted(store.counts)
    return {
        "id": store.id,
        "object": "vector_store",
        "created_at": store.created_at,
        "name": store.name,
        "description": store.description,
        "status": "in_progress" if counts["in_progress"] else "completed",
        "usage_bytes": store.usage_bytes,
        "file_counts": counts,
        "last_active_at": None,
        "expires_after": None,
        "expires_at": None,
        "metadata": store.metadata,
    }
