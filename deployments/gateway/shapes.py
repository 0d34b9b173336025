"""How routes tell what they give, and the objects callers keep; for the OpenAPI document alone, nothing is written through these."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

BINARY = {"type": "string", "contentMediaType": "application/octet-stream"}
"""A file in a form."""

Answers = dict[int | str, dict[str, Any]]

STREAM = "2XX"
"""Where a route keeps the shape of one event of its stream until the document is made: a model in a place of its own is collected."""


class Shape(BaseModel):
    """An object with these fields and no others; a field with a default may be missing."""

    model_config = ConfigDict(extra="forbid")


class Failure(Shape):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str


class Refusal(Shape):
    """Every error."""

    error: Failure


class Deleted(Shape):
    """What was deleted."""

    id: str
    object: str
    deleted: Literal[True]


class Model(Shape):
    """A model a caller may name."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class Models(Shape):
    """All models."""

    object: Literal["list"]
    data: list[Model]


class File(Shape):
    """An uploaded file."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["processed"]
    status_details: None


class Files(Shape):
    """A page of uploaded files."""

    object: Literal["list"]
    data: list[File]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Upload(Shape):
    """A file that comes in parts."""

    id: str
    object: Literal["upload"]
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: Literal["pending", "completed", "cancelled", "expired"]
    file: File | None


class UploadPart(Shape):
    """A part that has arrived."""

    id: str
    object: Literal["upload.part"]
    created_at: int
    upload_id: str


class FileCounts(Shape):
    """How far the files of a vector store are."""

    in_progress: int
    completed: int
    failed: int
    cancelled: int
    total: int


class VectorStore(Shape):
    """A searchable collection of files."""

    id: str
    object: Literal["vector_store"]
    created_at: int
    name: str
    description: str | None
    status: Literal["in_progress", "completed"]
    usage_bytes: int
    file_counts: FileCounts
    last_active_at: None
    expires_after: None
    expires_at: None
    metadata: dict[str, str]


class VectorStores(Shape):
    """A page of vector stores."""

    object: Literal["list"]
    data: list[VectorStore]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Trouble(Shape):
    """Why something failed."""

    code: str
    message: str


class Member(Shape):
    """A file in a vector store."""

    id: str
    object: Literal["vector_store.file"]
    created_at: int
    vector_store_id: str
    status: Literal["in_progress", "completed", "failed", "cancelled"]
    last_error: Trouble | None
    usage_bytes: int
    attributes: dict[str, bool | int | float | str]
    chunking_strategy: dict[str, Any]


class Members(Shape):
    """A page of the files of a vector store."""

    object: Literal["list"]
    data: list[Member]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Batch(Shape):
    """Files that were put into a vector store together."""

    id: str
    object: Literal["vector_store.files_batch"]
    created_at: int
    vector_store_id: str
    status: Literal["in_progress", "completed", "cancelled", "failed"]
    file_counts: FileCounts


class Words(Shape):
    """A piece of text."""

    type: Literal["text"]
    text: str


class Passages(Shape):
    """The passages of a file, in its order."""

    object: Literal["vector_store.file_content.page"]
    data: list[Words]
    has_more: Literal[False]
    next_page: None


class Found(Shape):
    """A passage that a search has found."""

    file_id: str
    filename: str
    score: float
    attributes: dict[str, bool | int | float | str]
    content: list[Words]


class SearchResults(Shape):
    """What a search has found, best first; `search_query` is what was looked for."""

    object: Literal["vector_store.search_results.page"]
    search_query: list[str]
    data: list[Found]
    has_more: Literal[False]
    next_page: None


class Embedding(Shape):
    """One vector: numbers, or the base64 of little-endian 32-bit floats."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Embeddings(Shape):
    """The vectors of some texts."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: dict[Literal["prompt_tokens", "total_tokens"], int]


class Alive(Shape):
    """The gateway answers."""

    status: Literal["ok"]


class Readiness(Shape):
    """How each part stands."""

    status: Literal["ok", "unavailable"]
    parts: dict[str, dict[str, Any]]


def gives(shape: type[BaseModel], stream: type[BaseModel] | None = None) -> Answers:
    """The `responses` of a route that answers with that shape, or with a stream of events whose data has the other."""
    return {200: {"model": shape}} | ({STREAM: {"model": stream}} if stream else {})


def serves(media: str, *statuses: int) -> Answers:
    """The `responses` of a route that answers in another format than JSON, each of these statuses."""
    return {status: {"content": {media: {"schema": {"type": "string"}}}} for status in statuses}


def form(optional: Mapping[str, dict[str, Any]] = MappingProxyType({}), **fields: dict[str, Any]) -> dict[str, Any]:
    """The `openapi_extra` of a route that reads a form itself; each field is required but the optional ones."""
    schema = {"type": "object", "properties": {**fields, **optional}, "required": [*fields]}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}
