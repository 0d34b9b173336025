"""The nouns that travel between stages: small frozen records, no behaviour beyond their own fields."""

from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
"""Unit-length embeddings, shape (n, dimensions)."""

Vector = NDArray[np.float32]
"""One unit-length embedding, shape (dimensions,)."""

Role = Literal["system", "developer", "user", "assistant", "tool"]


class Principal(msgspec.Struct, frozen=True):
    """Who is asking: a tenant, the key that proved it, and what that key may do."""

    tenant: str
    key_id: str
    scopes: frozenset[str]


class Message(msgspec.Struct, frozen=True):
    """One message of a conversation, text only."""

    role: Role
    content: str


class Sampling(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the model is asked to sample; None leaves a value to the backend."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()


class Turn(msgspec.Struct, frozen=True):
    """One question of one principal, as admitted; `id` names its response, `store_id` the vector store it may be answered from."""

    id: str
    principal: Principal
    model: str
    messages: tuple[Message, ...]
    sampling: Sampling
    created: int
    deadline_s: float
    store_id: str | None = None

    @property
    def question(self) -> str:
        """The last thing the user said; "" where there is no user message."""
        return next((m.content for m in reversed(self.messages) if m.role == "user"), "")


class Chunk(msgspec.Struct, frozen=True):
    """A piece of one document: `text` is the document's characters [start, end).

    `number` counts from 0 within the document; `headings` is the title path above it; `tokens` counts the embedder's tokens.
    """

    number: int
    text: str
    headings: tuple[str, ...]
    start: int
    end: int
    tokens: int


class Passage(msgspec.Struct, frozen=True):
    """A chunk as found by a search.

    `score` orders the result (fused rank, 0..1); `similarity` is the cosine of query and passage (-1..1).
    """

    file_id: str
    filename: str
    title: str
    chunk: Chunk
    score: float
    similarity: float


class Query(msgspec.Struct, frozen=True):
    """One search in one vector store of the principal.

    `vector` has shape (dimensions,); `limit` counts passages, `budget_tokens` bounds their sum.
    """

    principal: Principal
    store_id: str
    text: str
    vector: Vector
    limit: int = 4
    budget_tokens: int = 1000


class Route(msgspec.Struct, frozen=True):
    """Where a turn goes, decided by the router: the backend, whether to retrieve, how much context, and why."""

    backend: str
    retrieve: bool
    context_tokens: int
    reason: str


class Usage(msgspec.Struct, frozen=True):
    """Tokens read and written by the backend."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class Opened(msgspec.Struct, frozen=True, array_like=True, tag="o"):
    """The response exists; always number 0."""

    seq: int


class Text(msgspec.Struct, frozen=True, array_like=True, tag="t"):
    """More text of the answer; never splits a code point."""

    seq: int
    text: str


class Citation(msgspec.Struct, frozen=True, array_like=True):
    """The marker `[number]` at code points [start, end) of the answer points at a passage."""

    start: int
    end: int
    number: int
    url: str
    title: str


class Cited(msgspec.Struct, frozen=True, array_like=True, tag="c"):
    """A marker already written points at a passage."""

    seq: int
    citation: Citation


class Finished(msgspec.Struct, frozen=True, array_like=True, tag="f"):
    """The answer is complete; nothing follows."""

    seq: int
    reason: Literal["stop", "length", "content_filter"]
    usage: Usage


class Failed(msgspec.Struct, frozen=True, array_like=True, tag="x"):
    """The answer broke off; nothing follows. The fields are those of an error, `kind` its type on the wire."""

    seq: int
    status: int
    kind: str
    code: str
    message: str
    param: str | None = None
    retry_after_s: float | None = None
    retry: bool | None = None


Delta = Opened | Text | Cited | Finished | Failed


class LogRef(msgspec.Struct, frozen=True):
    """A place in a response's log: who writes (`epoch`), what comes next (`next_seq`), and the channel of each replica that follows.

    `record` keeps the deltas in Valkey for later readers; without it they are only pushed.
    """

    response_id: str
    tenant: str
    channels: tuple[str, ...]
    record: bool
    epoch: int = 1
    next_seq: int = 0


class Generation(msgspec.Struct, frozen=True):
    """One model call: the assembled prompt, the passages it may cite, and the log to write to.

    `deadline_s` is what is left of the turn's time, in seconds. Where there are `quotes`, best first, the answer consists of them.
    """

    log: LogRef
    backend: str
    messages: tuple[Message, ...]
    sampling: Sampling
    passages: tuple[Passage, ...]
    citation_urls: tuple[str, ...]
    deadline_s: float
    quotes: tuple[str, ...] = ()


class Outcome(msgspec.Struct, frozen=True):
    """How a model call ended; `next_seq` hands the log back to the flow."""

    next_seq: int
    reason: Literal["stop", "length", "content_filter"]
    usage: Usage


DIRECT = "headrace-direct"
MODELS = ("headrace", DIRECT)
"""The models a caller may name: with retrieval, and without."""
