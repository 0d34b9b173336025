"""/v1/vector_stores/{id}/file_batches: many files at once, each with an outcome of its own."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from deployments.core import batches
from deployments.core.errors import InvalidRequest
from deployments.core.ids import is_id
from deployments.core.members import Placing
from deployments.gateway.api.vector_stores import Attributes, Chunking, FileId, MemberRequest, Status, counted, member_shape
from deployments.gateway.bodies import BodyRoute
from deployments.gateway.context import Parts, Reader, Writes
from deployments.gateway.listing import After, Limit, Order, forward, page, polled
from deployments.gateway.shapes import Batch, Members, gives
from deployments.gateway.wire import either

router = APIRouter(route_class=BodyRoute)

MAX_FILES = 2000
"""Files of one batch; OpenAI's bound."""

_PATH = "/v1/vector_stores/{store_id}/file_batches"
_IDS = {"type": "array", "items": {"type": "string"}, "minItems": 1}


class BatchRequest(BaseModel):
    """Files to put into a vector store: by their ids, all alike, or each with attributes and a chunking strategy of its own."""

    model_config = ConfigDict(
        extra="ignore",
        json_schema_extra=either({"file_ids": _IDS, "files": None}, {"files": {"type": "array", "minItems": 1}, "file_ids": None}),
    )

    file_ids: Annotated[list[FileId], Field(max_length=MAX_FILES, fail_fast=True)] | None = None
    files: Annotated[list[MemberRequest], Field(max_length=MAX_FILES, fail_fast=True)] | None = None
    attributes: Attributes | None = None
    chunking_strategy: Chunking | None = None

    def wanted(self) -> dict[str, Placing]:
        """How each file is put there, the first mention counting; raises InvalidRequest or Unsupported."""
        if bool(self.file_ids) == bool(self.files):
            raise InvalidRequest("either file_ids or files, and one at least", param="file_ids", code="missing_required_parameter")
        tokens = self.chunking_strategy.tokens("chunking_strategy") if self.chunking_strategy else None
        alike = Placing(dict(self.attributes or {}), tokens)
        wanted: dict[str, Placing] = {}
        for place, file_id in enumerate(self.file_ids or ()):
            wanted.setdefault(_named(file_id, f"file_ids[{place}]"), alike)
        for place, file in enumerate(self.files or ()):
            wanted.setdefault(_named(file.file_id, f"files[{place}].file_id"), file.placing(f"files[{place}].", tokens))
        return wanted


@router.post(_PATH, responses=gives(Batch))
async def create(store_id: str, body: BatchRequest, parts: Parts, caller: Writes) -> dict[str, Any]:
    """Put files into a vector store; one that is not there fails, and the others go on."""
    made = await parts.store.of(caller).batches.add(store_id, body.wanted())
    await parts.wake()
    return _shape(made)


@router.get(_PATH + "/{batch_id}", responses=gives(Batch))
async def retrieve(store_id: str, batch_id: str, response: Response, parts: Parts, caller: Reader) -> dict[str, Any]:
    """How far a batch is."""
    polled(response)
    return _shape(await parts.store.of(caller).batches.get(store_id, batch_id))


@router.post(_PATH + "/{batch_id}/cancel", responses=gives(Batch))
async def cancel(store_id: str, batch_id: str, parts: Parts, caller: Writes) -> dict[str, Any]:
    """Call off what of a batch is not ingested yet; what is stays."""
    await parts.holdings(caller).cancel_batch(store_id, batch_id)
    return _shape(await parts.store.of(caller).batches.get(store_id, batch_id))


@router.get(_PATH + "/{batch_id}/files", responses=gives(Members))
async def files(
    store_id: str,
    batch_id: str,
    response: Response,
    parts: Parts,
    caller: Reader,
    after: After = "",
    before: str = "",
    limit: Limit = 20,
    order: Order = "desc",
    status: Annotated[Status | None, Query(alias="filter")] = None,
) -> dict[str, Any]:
    """A page of the files of a batch, each with its outcome."""
    forward(before)
    polled(response)
    kept = parts.store.of(caller).batches
    found = await kept.files(store_id, batch_id, after, limit + 1, newest_first=order == "desc", status=status)
    return page([member_shape(member, parts.settings) for member in found], limit)


def _named(file_id: str, param: str) -> str:
    if not is_id(file_id):
        raise InvalidRequest(f"{param}: this can be no id", param=param, code="invalid_value")
    return file_id


def _shape(batch: batches.Batch) -> dict[str, Any]:
    return {
        "id": batch.id,
        "object": "vector_store.files_batch",
        "created_at": batch.created_at,
        "vector_store_id": batch.store_id,
        "status": batch.status,
        "file_counts": counted(batch.counts),
    }
