"""/v1/uploads: files that come in parts."""

import contextlib
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.datastructures import UploadFile

from deployments.core.errors import InvalidRequest, NotFound, TooLarge
from deployments.core.types import Principal
from deployments.core.uploads import MAX_PARTS
from deployments.core.uploads import Upload as Known
from deployments.gateway.api import files
from deployments.gateway.api.files import ExpiresAfter, Purpose, filename
from deployments.gateway.bodies import BodyRoute
from deployments.gateway.context import Context, Parts, Writes
from deployments.gateway.metered import FILES, metered
from deployments.gateway.shapes import BINARY, Upload, UploadPart, form, gives
from deployments.gateway.wire import Words

router = APIRouter(route_class=BodyRoute)

MAX_PART_BYTES = 64 << 20
"""What one part may hold; OpenAI's clients send as much."""


class UploadRequest(BaseModel):
    """A file that will come in parts."""

    model_config = ConfigDict(extra="ignore")

    bytes: Annotated[int, Field(ge=1, le=2**53)]
    filename: Annotated[Words, Field(min_length=1, max_length=1024)]
    mime_type: Annotated[Words, Field(max_length=256)]
    purpose: Purpose
    expires_after: ExpiresAfter | None = None


class CompleteRequest(BaseModel):
    """The parts of a file, in order, and the MD5 of the whole in hex."""

    model_config = ConfigDict(extra="ignore")

    part_ids: Annotated[list[Annotated[Words, Field(max_length=64)]], Field(max_length=MAX_PARTS, fail_fast=True)]
    md5: Annotated[str, StringConstraints(pattern="^[0-9a-fA-F]{32}$")] | None = None


@router.post("/v1/uploads", responses=gives(Upload))
async def create(body: UploadRequest, response: Response, parts: Parts, caller: Writes) -> dict[str, Any]:
    """Begin an upload; it ends by itself after `gateway.upload_life_s`, and what was sent of it goes with it."""
    limits = parts.settings.gateway
    if body.bytes > limits.max_upload_bytes:
        raise TooLarge(f"the file is larger than {limits.max_upload_bytes} bytes", param="bytes", code="file_too_large")
    keep_s = body.expires_after.seconds if body.expires_after else None
    name, uploads = filename(body.filename, "filename"), parts.store.of(caller).uploads
    async with metered(parts, caller, response, FILES):
        made = await uploads.add(name, body.purpose, body.bytes, limits.upload_life_s, limits.max_open_uploads, keep_s)
    return await _shape(parts, caller, made)


@router.post("/v1/uploads/{upload_id}/parts", responses=gives(UploadPart), openapi_extra=form(data=BINARY))
async def put(upload_id: str, request: Request, response: Response, parts: Parts, caller: Writes) -> dict[str, Any]:
    """Keep a part; the body is read only once the upload is known."""
    uploads = parts.store.of(caller).uploads
    await uploads.pending(upload_id)
    async with metered(parts, caller, response, FILES), request.form(max_files=1, max_fields=0, max_part_size=4096) as form:
        data = form.get("data")
        if not isinstance(data, UploadFile) or not data.size:
            raise InvalidRequest("data: a multipart part that is a file, and not empty", param="data", code="missing_required_parameter")
        if data.size > MAX_PART_BYTES:
            raise TooLarge(f"a part has at most {MAX_PART_BYTES} bytes", param="data", code="file_too_large")
        content = await data.read()
    part = await uploads.put(upload_id, content)
    return {"id": part.id, "object": "upload.part", "created_at": part.created_at, "upload_id": part.upload_id}


@router.post("/v1/uploads/{upload_id}/complete", responses=gives(Upload))
async def complete(upload_id: str, body: CompleteRequest, parts: Parts, caller: Writes) -> dict[str, Any]:
    """Make a file of the parts, in the order they are named."""
    return await _shape(parts, caller, await parts.store.of(caller).uploads.complete(upload_id, body.part_ids, body.md5))


@router.post("/v1/uploads/{upload_id}/cancel", responses=gives(Upload))
async def cancel(upload_id: str, parts: Parts, caller: Writes) -> dict[str, Any]:
    """Give an upload up; its parts go at once."""
    return await _shape(parts, caller, await parts.store.of(caller).uploads.cancel(upload_id))


async def _shape(parts: Context, caller: Principal, upload: Known) -> dict[str, Any]:
    file = None
    if upload.file_id:
        with contextlib.suppress(NotFound):  # it may have been deleted since
            file = files.shape(await parts.store.of(caller).file(upload.file_id))
    return {
        "id": upload.id,
        "object": "upload",
        "bytes": upload.bytes,
        "created_at": upload.created_at,
        "expires_at": upload.expires_at,
        "filename": upload.filename,
        "purpose": upload.purpose,
        "status": upload.status,
        "file": file,
    }
