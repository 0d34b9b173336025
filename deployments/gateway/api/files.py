"""/v1/files: what a caller uploads."""

import re
import unicodedata
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field
from starlette.datastructures import FormData, UploadFile

from deployments.core.errors import InvalidRequest, TooLarge, Unsupported
from deployments.core.files import StoredFile
from deployments.gateway.bodies import BodyRoute
from deployments.gateway.context import Parts, Reader, Writes
from deployments.gateway.listing import After, Order, page, polled
from deployments.gateway.metered import FILES, metered
from deployments.gateway.shapes import BINARY, Deleted, File, Files, form, gives, serves

router = APIRouter(route_class=BodyRoute)

FRAME_BYTES = 64 << 10
"""What a multipart body may hold beside the file."""

LEAST_KEEP_S, MOST_KEEP_S = 3600, 30 * 24 * 3600
"""How long a file that expires may live; OpenAI's bounds."""

Purpose = Literal["assistants", "user_data", "batch", "vision", "fine-tune", "evals"]
PURPOSES = ("assistants", "user_data", "batch", "vision", "fine-tune", "evals")

_ANCHOR, _SECONDS = "expires_after[anchor]", "expires_after[seconds]"
_MAX_NAME = 512
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff\ufeff]")
"""Control, bidirectional and zero-width characters, and surrogates: a name is shown to people and sent to terminals."""

_EXPIRES = {
    _ANCHOR: {"enum": ["created_at"]},
    _SECONDS: {"type": "integer", "minimum": LEAST_KEEP_S, "maximum": MOST_KEEP_S},
}


class ExpiresAfter(BaseModel):
    """When a file goes by itself."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=LEAST_KEEP_S, le=MOST_KEEP_S)]


@router.post("/v1/files", responses=gives(File), openapi_extra=form(_EXPIRES, file=BINARY, purpose={"enum": list(PURPOSES)}))
async def create(request: Request, response: Response, parts: Parts, caller: Writes) -> dict[str, Any]:
    """Keep a file; the body is read only once the caller is known."""
    async with metered(parts, caller, response, FILES), request.form(max_files=1, max_fields=8, max_part_size=4096) as form:
        upload = form.get("file")
        purpose, keep_s = _purpose(form), _keep_s(form)
        if not isinstance(upload, UploadFile):
            raise InvalidRequest("file: a multipart part with a filename is required", param="file", code="missing_required_parameter")
        bound = parts.settings.gateway.max_upload_bytes
        if (upload.size or 0) > bound:
            raise TooLarge(f"the file is larger than {bound} bytes", param="file", code="file_too_large")
        name = filename(upload.filename or "")
        content = await upload.read()
    return shape(await parts.store.of(caller).add_file(name, purpose, content, keep_s))


@router.get("/v1/files", responses=gives(Files))
async def files(
    parts: Parts,
    caller: Reader,
    purpose: Purpose | None = None,
    after: After = "",
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
    order: Order = "desc",
) -> dict[str, Any]:
    """A page of the caller's files."""
    found = await parts.store.of(caller).files(after, limit + 1, newest_first=order == "desc", purpose=purpose)
    return page([shape(file) for file in found], limit)


@router.get("/v1/files/{file_id}", responses=gives(File))
async def retrieve(file_id: str, response: Response, parts: Parts, caller: Reader) -> dict[str, Any]:
    """One file, without its content."""
    polled(response)
    return shape(await parts.store.of(caller).file(file_id))


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
    await parts.holdings(caller).delete_file(file_id)
    return {"id": file_id, "object": "file", "deleted": True}


def filename(sent: str, param: str = "file") -> str:
    """A name that can be shown: a relative path of plain parts, such as `tutorial/query-params.md`. Raises InvalidRequest."""
    plain = _UNSEEN.sub("", unicodedata.normalize("NFC", sent.replace("\\", "/")))
    kept = [part for part in (part.strip() for part in plain.split("/")) if part not in ("", ".", "..")]
    name = "/".join(kept)
    if not name or len(name) > _MAX_NAME:
        raise InvalidRequest(f"{param}: a filename has 1 to {_MAX_NAME} characters", param=param, code="invalid_value")
    return name


def shape(file: StoredFile) -> dict[str, Any]:
    """A file on the wire."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": file.created_at,
        "expires_at": file.expires_at,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",  # a file alone needs no processing; in a vector store its ingestion has a status of its own
        "status_details": None,
    }


def _purpose(form: FormData) -> str:
    for field in form:
        if field not in ("file", "purpose", _ANCHOR, _SECONDS):
            raise Unsupported(f"{field} is not supported; send file, purpose and expires_after", param=field[:64])
    purpose = form.get("purpose")
    if purpose is None:
        raise InvalidRequest("purpose: Field required", param="purpose", code="missing_required_parameter")
    if purpose not in PURPOSES:
        raise InvalidRequest(f"purpose: one of {', '.join(PURPOSES)}", param="purpose", code="invalid_value")
    return str(purpose)


def _keep_s(form: FormData) -> int | None:
    """How long the file is kept; None is for good."""
    anchor, seconds = form.get(_ANCHOR), form.get(_SECONDS)
    if anchor is None and seconds is None:
        return None
    text = seconds if isinstance(seconds, str) and seconds.isascii() and seconds.isdecimal() and len(seconds) < 10 else "0"
    if not LEAST_KEEP_S <= int(text) <= MOST_KEEP_S:
        raise InvalidRequest(f"{_SECONDS}: a number from {LEAST_KEEP_S} to {MOST_KEEP_S}", param=_SECONDS, code="invalid_value")
    if anchor != "created_at":
        raise InvalidRequest(f"{_ANCHOR}: only 'created_at'", param=_ANCHOR, code="invalid_value")
    return int(text)
