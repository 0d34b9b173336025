"""The nouns that travel between stages: small frozen records, no behaviour beyond their own fields."""

from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from deployments.core.account import Account
from deployments.core.choices import Choice
from deployments.core.filters import Filter, Value
from deployments.core.handling import Handling
from deployments.core.images import Image
from deployments.core.models import Model, Tier
from deployments.core.shape import Schema
from deployments.core.tools import Approval, Awaits, Ran, Toolbox, ToolCall

Vectors = NDArray[np.float32]
"""Unit-length embeddings, shape (n, dimensions)."""
Vector = NDArray[np.float32]
"""One unit-length embedding, shape (dimensions,)."""
Role = Literal["system", "developer", "user", "assistant", "tool"]


class Principal(msgspec.Struct, frozen=True):
    """Who is asking: a tenant, the key that proved it, and what that key may do; `user` is whom a session token names.

    `models` are those the caller may name; None is all of them.
    """

    tenant: str
    key_id: str
    scopes: frozenset[str]
    user: str | None = None
    models: frozenset[str] | None = None


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """One message of a conversation: text, the calls an assistant made, or (`call_id`) the result of one of them; images go with a text."""

    role: Role
    content: str
    calls: tuple[ToolCall, ...] = ()
    call_id: str | None = None
    images: tuple[Image, ...] = ()


class Sampling(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the model is asked to sample; None leaves a value to the backend."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None
    """Alternatives per token; None asks for no probabilities at all, 0 for those of the tokens chosen."""
    json_object: bool = False
    schema: Schema | None = None

    @property
    def owes_json(self) -> bool:
        """Whether the answer is JSON, and nothing else."""
        return self.json_object or self.schema is not None


class Search(msgspec.Struct, frozen=True):
    """A search the caller asked for by the `file_search` tool, so that its course and its results are part of the answer."""

    limit: int = 20
    min_score: float = 0.0
    filters: Filter | None = None


class Reuse(msgspec.Struct, frozen=True):
    """That an answer given before may be given again: to the very same question or, with a `threshold`, to one of at least that cosine."""

    threshold: float | None = None


Caching = Literal["off", "exact", "semantic"]
"""What a tenant or a request asks of the completion cache."""


class Turn(msgspec.Struct, frozen=True):
    """One question of one principal, as admitted; `id` names its response, `store_id` the vector store it may be answered from.

    `conversation_id` names the session whose turns belong before `messages`, `prompt` (id@version) the tenant's that they begin with.
    """

    id: str
    principal: Principal
    model: str
    messages: tuple[Message, ...]
    sampling: Sampling
    created: int
    deadline_s: float
    store_id: str | None = None
    toolbox: Toolbox = Toolbox()
    search: Search | None = None
    conversation_id: str | None = None
    reuse: Reuse | None = None
    handling: Handling = Handling()
    prompt: str = ""
    choices: tuple[Choice, ...] = ()
    approvals: tuple[Approval, ...] = ()
    trace: str = ""
    """The client's `traceparent`."""

    @property
    def question(self) -> str:
        """The last thing the user said; "" where there is no user message."""
        return next((m.content for m in reversed(self.messages) if m.role == "user"), "")

    @property
    def earlier(self) -> tuple[str, ...]:
        """What the user said before that, in order."""
        return tuple(m.content for m in self.messages if m.role == "user")[:-1]


class Chunk(msgspec.Struct, frozen=True):
    """A piece of one document: `text` is the document's characters [start, end).

    `number` counts from 0 within the document; `headings` is the title path above it; `tokens` counts the embedder's tokens.
    `attributes` are its own, such as the fields of a record, and go before those of its file.
    """

    number: int
    text: str
    headings: tuple[str, ...]
    start: int
    end: int
    tokens: int
    attributes: dict[str, Value] = {}


class Source(msgspec.Struct, frozen=True):
    """A file of a vector store as the index knows it; `created_at` is in Unix seconds."""

    file_id: str
    filename: str = ""
    title: str = ""
    attributes: dict[str, Value] = {}
    created_at: int = 0


class Passage(msgspec.Struct, frozen=True):
    """A chunk as found by a search.

    `score` orders the result (fused rank, 0..1); `similarity` is the cosine of query and passage (-1..1). `attributes` are those of the
    file and the chunk's own; `created_at`, in Unix seconds, is when the file was put into the store.
    """

    file_id: str
    filename: str
    title: str
    chunk: Chunk
    score: float
    similarity: float
    attributes: dict[str, Value] = {}
    created_at: int = 0


class Query(msgspec.Struct, frozen=True):
    """One search in one vector store of the principal.

    `vector` has shape (dimensions,); `limit` counts passages, `budget_tokens` bounds their sum. `filters` narrow what is found.
    With a `half_life_s` newer passages come before older ones. `everything` finds also what has little to do with the question, for a
    caller who asked for so many results.
    """

    principal: Principal
    store_id: str
    text: str
    vector: Vector
    limit: int = 4
    budget_tokens: int = 1000
    filters: Filter | None = None
    half_life_s: float | None = None
    everything: bool = False


class Route(msgspec.Struct, frozen=True):
    """Where a turn goes, decided by the router: whether to retrieve, how much context, why, and which tier is preferred, if any."""

    retrieve: bool
    context_tokens: int
    reason: str
    tier: Tier | None = None


class Usage(msgspec.Struct, frozen=True):
    """Tokens read and written by the backend; of an answer that is `replayed` they are those of the first time, and cost nothing."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    replayed: bool = False

    def __add__(self, other: "Usage") -> "Usage":
        """The tokens of two calls of a model."""
        return Usage(self.prompt_tokens + other.prompt_tokens, self.completion_tokens + other.completion_tokens)

    @property
    def cached_tokens(self) -> int:
        """Tokens of the prompt that no backend had to read."""
        return self.prompt_tokens if self.replayed else 0


class Opened(msgspec.Struct, frozen=True, array_like=True, tag="o"):
    """The response exists; always number 0."""

    seq: int


class Logprob(msgspec.Struct, frozen=True, array_like=True):
    """A token of the model's and its natural-log probability, with the most likely others."""

    token: str
    logprob: float
    others: "tuple[Logprob, ...]" = ()


class Text(msgspec.Struct, frozen=True, array_like=True, tag="t"):
    """More text of the answer; never splits a code point. Probabilities come with the text their tokens became part of.

    `tokens` counts what the backend has written since the last text, as far as it can be counted while it writes.
    """

    seq: int
    text: str
    logprobs: tuple[Logprob, ...] = ()
    tokens: int = 0


class Searching(msgspec.Struct, frozen=True, array_like=True, tag="q"):
    """A search that the caller asked for has begun."""

    seq: int
    queries: tuple[str, ...]


class Hit(msgspec.Struct, frozen=True, array_like=True):
    """A passage as the caller of `file_search` sees it; `score` is 0..1."""

    file_id: str
    filename: str
    score: float
    text: str
    attributes: dict[str, Value] = {}


class Searched(msgspec.Struct, frozen=True, array_like=True, tag="r"):
    """The search that had begun has ended."""

    seq: int
    hits: tuple[Hit, ...]


class Called(msgspec.Struct, frozen=True, array_like=True, tag="k"):
    """More of call number `index` (from 0) of the caller's functions: its id and name come first and once, arguments in pieces."""

    seq: int
    index: int
    call_id: str | None
    name: str | None
    arguments: str


class Citation(msgspec.Struct, frozen=True, array_like=True):
    """The marker `[number]` at code points [start, end) of the answer points at a passage."""

    start: int
    end: int
    number: int
    url: str
    title: str


class Switched(msgspec.Struct, frozen=True, array_like=True, tag="s"):
    """A model backend broke off here, for the reason of that error code; what follows is another's."""

    seq: int
    code: str


class Cited(msgspec.Struct, frozen=True, array_like=True, tag="c"):
    """A marker already written points at a passage."""

    seq: int
    citation: Citation


Reason = Literal["stop", "length", "content_filter", "tool_calls"]
"""Why a model ended its answer."""


class Finished(msgspec.Struct, frozen=True, array_like=True, tag="f"):
    """The answer is complete; nothing follows. `at` is in Unix seconds."""

    seq: int
    reason: Reason
    usage: Usage
    at: int = 0


class Cancelled(msgspec.Struct, frozen=True, array_like=True, tag="z"):
    """Its owner ended the answer; nothing follows. `at` is in Unix seconds."""

    seq: int
    at: int = 0


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
    at: int = 0


Delta = Opened | Text | Cited | Searching | Searched | Called | Ran | Awaits | Switched | Finished | Failed | Cancelled
Last = Finished | Failed | Cancelled


class LogRef(msgspec.Struct, frozen=True):
    """A place in a response's log: who writes (`epoch`), what comes next (`next_seq`), and the channel of each replica that follows.

    `record` keeps the deltas in Valkey for later readers; without it they are only pushed. `shared` publishes them on the response's
    own channel too, for readers anywhere; such a log outlives its connection. `written` is the log so far: who owns
    the log holds all of it, to write it again where Valkey has lost it.
    """

    response_id: str
    tenant: str
    channels: tuple[str, ...]
    record: bool
    shared: bool = False
    epoch: int = 1
    written: tuple[Delta, ...] = ()

    @property
    def next_seq(self) -> int:
        """The number of the next delta."""
        return len(self.written)


class Generation(msgspec.Struct, frozen=True):
    """One model call: the assembled prompt, the passages it may cite, and the log to write to.

    `deadline_s` is what is left of the turn's time, in seconds. Where there are `quotes`, best first, the answer consists of them.
    Backends of another `tier` are asked where those of this one take no calls; the one that it `prefers` goes before all others. A `model`
    of the catalogue says which backends may be asked; None is all that are configured. One that is `hedged` may be asked of two at once.
    Calls of one `session` go to one backend, whose cache holds what they begin with.
    `since` is the number of this call's first delta: what the log holds before it, earlier calls of the model have said.
    """

    log: LogRef
    messages: tuple[Message, ...]
    sampling: Sampling
    passages: tuple[Passage, ...]
    citation_urls: tuple[str, ...]
    deadline_s: float
    quotes: tuple[str, ...] = ()
    toolbox: Toolbox = Toolbox()
    tier: Tier | None = None
    model: Model | None = None
    account: Account = Account()
    hedged: bool = False
    prefers: str = ""
    session: str = ""
    since: int = 0


class Outcome(msgspec.Struct, frozen=True):
    """How a model call ended; `next_seq` hands the log back to the flow. `calls` are those of tools that headrace runs."""

    next_seq: int
    reason: Reason
    usage: Usage
    calls: tuple[ToolCall, ...] = ()
