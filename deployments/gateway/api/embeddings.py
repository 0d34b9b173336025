"""POST /v1/embeddings."""

import base64
from typing import Annotated, Literal

import msgspec
import numpy as np
from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from deployments.core.errors import InvalidRequest, Unsupported
from deployments.core.lease import Want
from deployments.core.types import Vectors
from deployments.gateway.bodies import BodyRoute
from deployments.gateway.context import Asker, Parts
from deployments.gateway.metered import EMBED, tokens_of
from deployments.gateway.shapes import Embeddings, gives
from deployments.gateway.wire import SomeWords, Texts, Words, known

router = APIRouter(route_class=BodyRoute)

MAX_TEXT_CHARS = 32 << 10


class EmbeddingRequest(BaseModel):
    """Texts to embed."""

    model_config = ConfigDict(extra="ignore")

    model: Annotated[Words, Field(max_length=256, json_schema_extra={"enum": [EMBED]})]
    input: SomeWords | Texts
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1)

    def texts(self) -> list[str]:
        """The texts; raises InvalidRequest or Unsupported."""
        texts = [self.input] if isinstance(self.input, str) else self.input
        if not texts:
            raise InvalidRequest("input holds a text at least", param="input", code="invalid_value")
        checked: list[str] = []
        for text in texts:
            if not isinstance(text, str):
                message = "token ids are not supported; send text (LangChain: check_embedding_ctx_length=False)"
                raise Unsupported(message, param="input", code="unsupported_value")
            if not 0 < len(text) <= MAX_TEXT_CHARS:
                raise InvalidRequest(f"a text has 1 to {MAX_TEXT_CHARS} characters", param="input", code="invalid_value")
            checked.append(text)
        return checked


@router.post("/v1/embeddings", response_class=Response, responses=gives(Embeddings))
async def create(body: EmbeddingRequest, parts: Parts, caller: Asker) -> Response:
    """Embed texts as unit-length vectors."""
    known(body.model, caller, (EMBED,))
    texts = body.texts()
    tokens = tokens_of(texts)
    want = Want(EMBED, tokens, 0, 0, parts.settings.gateway.deadline_s, slot=False)
    async with parts.gate.admit(caller, want) as lease:
        vectors = _cut(await parts.stages.embeds.embed(texts, caller), body.dimensions)
    data = [{"object": "embedding", "index": i, "embedding": _encoded(v, body.encoding_format)} for i, v in enumerate(vectors)]
    answer = {"object": "list", "data": data, "model": EMBED, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}
    response = Response(msgspec.json.encode(answer), media_type="application/json")
    response.raw_headers += lease.headers
    return response


def _cut(vectors: Vectors, dimensions: int | None) -> Vectors:
    if dimensions is None or dimensions == vectors.shape[1]:
        return vectors
    if dimensions > vectors.shape[1]:
        raise InvalidRequest(f"the model has {vectors.shape[1]} dimensions", param="dimensions", code="invalid_value")
    cut = vectors[:, :dimensions]
    return cut / np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), 1e-12)


def _encoded(vector: np.ndarray[tuple[int], np.dtype[np.float32]], encoding: str) -> str | list[float]:
    if encoding == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return vector.tolist()
