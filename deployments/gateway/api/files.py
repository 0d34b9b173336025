"""/v1/files: what a caller uploads."""

import re
import unicodedata
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from starlette.datastructures import FormData, UploadFile

from deployments.core.errors import InvalidRequest, TooLarge, Unsupported
from deployments.core.store import StoredFile
from deployments.core.types import Principal, Source
from deployments.gateway.bodies import BodyRoute
from deployments.gateway.context import Context, Parts, Reader, Writes
from deployments.gateway.shapes import BINARY, Deleted, File, form, gives, serves

router = APIRouter(route_class=BodyRoute)

FRAME_BYTES = 64 << 10
"""What a multipart body may hold beside the file."""

POLL_AFTER_MS = "500"
"""How long the client's polling helpers wait before they ask again."""

_PURPOSES = ("assistants", "user_data", "batch", "vision", "fine-tune", "evals")
_MAX_NAME = 512
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff\ufeff]")
"""Control, bidirectional and zero-width characters, and surrogates: a name is shown to people and sent to terminals."""


@router.post("/v1/files", responses=gives(File), openapi_extra=form(file=BINARY, purpose={"enum": list(_PURPOSES)}))
async def create(request: Request, parts: Parts, caller: Writes) -> dict[str, Any]:
    """Keep a file; the body is read only once the caller is known."""
    async with request.form(max_files=1, max_fields=8, max_part_size=4096) as form:
        upload = form.get("file")
        purpose = _purpose(form)
        if not isinstance(upload, UploadFile):
            raise InvalidRequest("file: a multipart part with a filename is required", param="file", code="missing_required_parameter")
        bound = parts.settings.gateway.max_upload_bytes
        if (upload.size or 0) > bound:
            raise TooLarge(f"the file is larger than {bound} bytes", param="file", code="file_too_large")
        name = filename(upload.filename or "")
        content = await upload.read()
    return _shape(await parts.store.of(caller).add_file(name, purpose, content))


@router.get("/v1/files/{file_id}", responses=gives(File))
async def retrieve(file_id: str, response: Response, parts: Parts, caller: Reader) -> dict[str, Any]:
    """One file, without its content."""
    response.headers["openai-poll-after-ms"] = POLL_AFTER_MS
    return _shape(await parts.store.of(caller).file(file_id))


@router.get("/v1/files/{file_id}/content", response_class=Response, responses=serves("application/octet-stream", 200))
async def content(file_id: str, parts: Parts, caller: Reader) -> Response:
    """The bytes as they were uploaded; a browser is told to save them, whatever they claim to be."""
    headers = {
        "content-disposition": "attachment",
        "content-security-policy": "sandbox; default-src 'none'",
        "x-content-type-options": "nosniff",
        "cache-control": "private, no-store",
    }
    return Response(await parts.store.of(caller).content(file_id), headers=headers, media_type="application/octet-stream")


@router.delete("/v1/files/{file_id}", responses=gives(Deleted))
async def remove(file_id: str, parts: Parts, caller: Writes) -> dict[str, Any]:
    """Delete a file, and take it out of every vector store."""
    mine = parts.store.of(caller)
    await mine.file(file_id)
    held = await mine.stores_with(file_id)
    for store_id in held:
        await withdraw(parts, caller, store_id, file_id)
    await mine.delete_file(file_id)
    for store_id, status in held.items():
        if status == "in_progress":
            await withdraw(parts, caller, store_id, file_id)
    return {"id": file_id, "object": "file", "deleted": True}


async def withdraw(parts: Context, caller: Principal, store_id: str, file_id: str) -> None:
    """Take a file out of the index of a store.

    The index goes first: after a crash the file is still listed, and deleting it again works. A file being ingested is withdrawn
    once more afterwards, for what the worker may have put there meanwhile.
    """
    await parts.stages.retrieves.replace(caller, store_id, Source(file_id), (), np.zeros((0, 0), np.float32))
    await parts.store.of(caller).corpus.touch(store_id)


def filename(sent: str) -> str:
    """A name that can be shown: a relative path of plain parts, such as `tutorial/query-params.md`. Raises InvalidRequest."""
    plain = _UNSEEN.sub("", unicodedata.normalize("NFC", sent.replace("\\", "/")))
    kept = [part for part in (part.strip() for part in plain.split("/")) if part not in ("", ".", "..")]
    name = "/".join(kept)
    if not name or len(name) > _MAX_NAME:
        raise InvalidRequest(f"file: a filename has 1 to {_MAX_NAME} characters", param="file", code="invalid_value")
    return name


def _purpose(form: FormData) -> str:
    for field in form:
        if field not in ("file", "purpose"):
            raise Unsupported(f"{field} is not supported; send file and purpose", param=field[:64])
    purpose = form.get("purpose")
    if purpose is None:
        raise InvalidRequest("purpose: Field required", param="purpose", code="missing_required_parameter")
    if purpose not in _PURPOSES:
        raise InvalidRequest(f"purpose: one of {', '.join(_PURPOSES)}", param="purpose", code="invalid_value")
    return str(purpose)


def _shape(file: StoredFile) -> dict[str, Any]:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": file.created_at,
        "expires_at": None,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",  # a file alone needs no processing; in a vector store its ingestion has a status of its own
        "status_details": None,
    }
