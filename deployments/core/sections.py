"""The parts of the settings tree: what can be set of each stage, and what it is where nothing is said."""

from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, SecretStr, model_validator

from deployments.core.models import PRIMARY, Ability, Contract, Model, Name, Rates, Section, Tier, Upstream
from deployments.core.scaling import EmbedderScaling, GatewayScaling, GeneratorScaling, RetrieverScaling, RouterScaling, WorkerScaling

Precision = Literal["int8", "fp32"]


class Gateway(Section):
    """The HTTP edge of the application and the bounds of a request."""

    scaling: GatewayScaling = GatewayScaling()
    max_body_bytes: int = Field(default=1 << 20, ge=1024, description="Largest body of a request that is not an upload.")
    max_upload_bytes: int = Field(default=32 << 20, ge=1024, description="Largest file that may be ingested.")
    max_open_uploads: int = Field(default=16, ge=1, description="Uploads in parts that one tenant may have open at once.")
    upload_life_s: int = Field(default=3600, ge=60, description="How long an upload in parts may take; then its parts are dropped.")
    max_messages: int = Field(default=512, ge=1, description="Messages in one request.")
    max_tokens: int = Field(default=4096, ge=1, description="Largest answer a request may ask for.")
    commit_s: float = Field(default=2, gt=0, description="A streamed answer that has said nothing for so long is begun anyway.")
    max_images: int = Field(default=8, ge=0, description="Images in one request, those of earlier messages included.")
    max_image_bytes: int = Field(default=512 << 10, ge=1024, description="Largest image; the body of the request bounds all of them.")
    max_choices: int = Field(default=4, ge=1, description="Answers to one chat request (`n`).")
    max_input_tokens: int = Field(default=32_000, ge=64, description="Longest input of a response with what came before it, roughly.")
    max_sockets: int = Field(default=2500, ge=1, description="WebSockets one replica holds at once; more are closed with 1013.")
    max_socket_answers: int = Field(default=16, ge=1, description="Answers of one WebSocket at once.")
    socket_frames_per_s: float = Field(
        default=20, gt=0, description="Frames a client may send over one WebSocket; five seconds' worth at once, more close it with 1008."
    )
    socket_life_s: float = Field(default=3600, gt=0, description="Longest life of a WebSocket.")
    max_streams: int = Field(default=900, ge=1, description="Answers one replica writes at once; more get 503.")
    deadline_s: float = Field(default=300, gt=0, description="Longest life of one answer.")
    keep_alive_s: float = Field(default=10, gt=0, description="Pause after which an idle stream gets an SSE comment.")
    send_timeout_s: float = Field(default=30, gt=0, description="How long one write may wait for a slow reader before the stream is cut.")
    hosts: tuple[str, ...] = Field(default=(), description="Hosts a request may name; none: any. Needed against DNS rebinding only.")
    origins: tuple[Annotated[str, Field(pattern=r"^https?://[^/*\s]+$")], ...] = Field(
        default=(), description="Origins, such as https://app.example, whose pages may call the API from a browser."
    )
    publish_openapi: bool = Field(default=False, description="Serve the OpenAPI document at /openapi.json, to anybody.")
    session_ttl_s: int = Field(default=12 * 3600, ge=60, description="Life of the browser session of the document page.")
    key_cache_s: float = Field(
        default=1.0, ge=0, le=1, description="How long a verified key is trusted without asking SQL; bounds how late a revocation is seen."
    )

    @property
    def drain_s(self) -> float:
        """How long a replica that ends, of whatever stage, is left to answer what it has begun: the longest answer, and some."""
        return self.deadline_s + 30


class Issuer(Section):
    """Tokens of an outside issuer (OpenID Connect or any other that signs JWTs), which may be sent in place of a key."""

    jwks: str | None = Field(default=None, description="Its public keys: a file, or an https URL; none accepts no such tokens.")
    name: str = Field(default="", description="The `iss` its tokens carry.")
    audience: str = Field(default="", description="The `aud` its tokens must carry for us.")
    algorithms: tuple[Literal["RS256", "ES256", "EdDSA"], ...] = Field(default=("RS256", "ES256", "EdDSA"), description="Its signatures.")
    tenant_claim: str = Field(default="tenant", description="The claim that names the tenant; whoever sets it decides who owns what.")
    user_claim: str = Field(default="sub", description="The claim that names the user.")
    scopes_claim: str = Field(default="scope", description="The claim with scopes: a list, or a text with spaces.")
    models_claim: str = Field(default="models", description="The claim with the models the user may name; without it, the tenant's.")
    scopes: tuple[str, ...] = Field(default=("chat", "files:read", "files:write"), description="Scopes its tokens may carry at most.")
    timeout_s: float = Field(default=3, gt=0, description="How long fetching the public keys may take.")
    refresh_s: float = Field(default=600, ge=30, description="How long fetched public keys are used.")

    @model_validator(mode="after")
    def _named(self) -> Self:
        if self.jwks and not (self.name and self.audience and self.algorithms):
            raise ValueError("an issuer needs a name, an audience and an algorithm")
        if self.jwks and self.jwks.startswith("http:") and urlsplit(self.jwks).hostname not in ("127.0.0.1", "localhost", "::1"):
            raise ValueError("public keys are fetched over https")
        return self


class Embedder(Section):
    """The sentence-transformers model."""

    scaling: EmbedderScaling = EmbedderScaling()
    model: str = Field(
        default="embedded", description="`embedded` is all-MiniLM-L6-v2 from its wheel; else a sentence-transformers path or name."
    )
    precision: Precision = Field(
        default="int8", description="Of the embedded model's matrix products: `int8` is over twice as fast, `fp32` is what was trained."
    )
    batch_tokens: int = Field(default=256, ge=16, description="Tokens encoded at once, padding counted; a longer text goes alone.")
    cache_entries: int = Field(default=4096, ge=0, description="Query vectors kept per replica.")
    shared_entries: int = Field(
        default=4096, ge=0, description="Query vectors of one tenant kept in Valkey for all replicas; 0 keeps none."
    )
    shared_ttl_s: int = Field(default=3600, ge=1, description="Life of a vector in Valkey.")

    @property
    def revision(self) -> str:
        """What a vector depends on beside its text: vectors of different revisions do not belong together."""
        return f"{self.model} {self.precision}" if self.model == "embedded" else self.model


class Retriever(Section):
    """Hybrid search over one Lance table per vector store."""

    scaling: RetrieverScaling = RetrieverScaling()
    open_tables: int = Field(default=64, ge=1, description="Tables one replica keeps open; the least recently used is closed.")
    indexed_rows: int = Field(default=5_000, ge=256, description="Passages of a store from which on nearest ones come from an index.")
    recall_bytes: int = Field(default=32 << 20, ge=0, description="Memory of one replica for the results of searches; 0 keeps none.")
    erase_after_s: float = Field(default=60, ge=0, description="When the bytes of what was deleted are removed from disk.")
    candidates: int = Field(default=30, ge=1, description="Passages each of the two searches contributes to the fusion.")
    min_similarity: float = Field(default=0.35, ge=-1, le=1, description="Cosine under which a passage is not relevant.")
    half_life_s: float | None = Field(default=None, gt=0, description="Age that halves what newness is worth, where a store states none.")
    reranker: str | None = Field(
        default=None, description="A sentence-transformers CrossEncoder, path or name, that orders what was found."
    )
    rerank_candidates: int = Field(default=20, ge=1, le=100, description="Passages the reranker reads for one question.")
    limit: int = Field(default=4, ge=1, le=50, description="Passages in a prompt.")
    chunk_tokens: int = Field(default=200, ge=32, le=512, description="Longest passage, in tokens of the embedder.")
    parse_timeout_s: float = Field(default=300, gt=0, description="How long reading one PDF, DOCX or large file may take.")
    parse_memory_bytes: int = Field(
        default=1 << 30, ge=256 << 20, description="Address space of the process that reads one PDF, DOCX or large file."
    )


class Router(Section):
    """Model and context choice."""

    scaling: RouterScaling = RouterScaling()
    threshold: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Complexity from which a question goes to the large tier: 0 is all of them, over 0.99 next to none.",
    )
    hurried_s: float = Field(default=5, ge=0, description="A question with less time than this goes to the small tier.")


class Resilience(Section):
    """What is done where a model backend fails."""

    attempts: int = Field(default=4, ge=1, le=10, description="Calls of a backend for one answer, the first included.")
    backoff_s: float = Field(
        default=0.1, gt=0, description="Pause before the same backend is asked again; each next one up to twice as long."
    )
    longest_backoff_s: float = Field(
        default=2, gt=0, description="The longest such pause, also where a backend asks for one (Retry-After)."
    )
    hedge_s: float | None = Field(
        default=None,
        gt=0,
        description="An answer that somebody waits for and that has not begun after so long is asked of a second backend too; who speaks "
        "first answers. Spends a retry. None: never.",
    )
    retry_share: float = Field(default=0.08, ge=0, le=1, description="Retries at most, as part of all calls.")
    spare_retries: int = Field(default=20, ge=0, description="Retries that are there before any call.")
    most_retries: int = Field(default=100, ge=1, description="Retries that quiet times can save up.")
    window: int = Field(default=20, ge=1, description="Last calls of a backend by which it is judged.")
    failures: int = Field(default=5, ge=1, description="Failed ones among them that put it out, where they are half of them.")
    open_s: float = Field(default=5, gt=0, description="How long a backend is out before one call tries it; twice as long each next time.")
    longest_open_s: float = Field(default=60, gt=0, description="The longest that it is out, also where it asked for more (Retry-After).")


class Generator(Section):
    """The model backend: embedded llama.cpp, or any OpenAI-compatible endpoint when `base_url` is set."""

    scaling: GeneratorScaling = GeneratorScaling()
    base_url: str | None = Field(default=None, description="An OpenAI-compatible endpoint, such as http://127.0.0.1:9000/v1.")
    model: str = Field(default="smollm2-135m-instruct", description="Model name sent to the backend.")
    api_key: SecretStr = Field(default=SecretStr("none"), description="Bearer key of the backend.")
    gguf: Path | None = Field(default=None, description="A GGUF file for the embedded backend instead of SmolLM2.")
    slots: int = Field(default=4, ge=1, description="Answers the embedded backend writes at once.")
    slot_tokens: int = Field(default=2048, ge=512, description="Context of one slot: prompt and answer.")
    context_tokens: int = Field(default=900, ge=0, description="Tokens of the prompt that passages may take.")
    quotes: bool | None = Field(
        default=None,
        description="Hold grounded answers to sentences of the passages, which the model picks; default: SmolLM2 only. Needs llama.cpp.",
    )
    unanswerable: Literal["answer", "say_so"] = Field(
        default="answer",
        description="A question that the found passages hardly speak to: `answer` as the model will, or `say_so` without asking it.",
    )
    default_max_tokens: int = Field(default=256, ge=1, description="Length of an answer where the request names none.")
    connect_timeout_s: float = Field(default=5, gt=0, description="How long connecting to the backend may take.")
    first_token_timeout_s: float = Field(default=60, gt=0, description="Longest wait for the backend's first token.")
    inter_token_timeout_s: float = Field(default=30, gt=0, description="Longest pause between two tokens.")
    region: str = Field(default="", description="Where this is; backends of the same region are asked first.")
    near: tuple[str, ...] = Field(default=(), description="Other regions, the nearest first; those that are not named come last.")
    tier: Tier | None = Field(default=None, description="The questions that this backend is for: `small`, `large`, or all of them.")
    on_break: Contract = Field(
        default="continue",
        description="Where a backend breaks off within an answer: another one goes on behind it (`continue`), begins anew and what it "
        "says again is dropped (`restart`), or the answer fails (`fail`).",
    )
    abilities: tuple[Ability, ...] = Field(
        default=("tools", "json_schema"), max_length=8, description="What this backend takes beside text: `vision`, `tools`, `json_schema`."
    )
    context_size: int | None = Field(
        default=None, ge=64, description="Tokens of prompt and answer that this backend takes; longer ones pass it over."
    )
    input_cost: float = Field(default=0, ge=0, description="What a million tokens read by this backend cost.")
    output_cost: float = Field(default=0, ge=0, description="What a million tokens written by it cost, in the same money.")
    fallbacks: tuple[Upstream, ...] = Field(default=(), description="More backends, each of another name.")
    keys: dict[Name, SecretStr] = Field(default={}, description="Bearer keys that backends of the catalogue name.")
    resilience: Resilience = Resilience()

    @property
    def upstreams(self) -> tuple[Upstream, ...]:
        """Every backend; the first is the embedded one where it has no address."""
        first = Upstream(
            name=PRIMARY,
            base_url=self.base_url or "",
            model=self.model,
            api_key=self.api_key,
            rank=0,
            region=self.region,
            tier=self.tier,
            abilities=self.abilities,
            context_size=self.context_size,
            input_cost=self.input_cost,
            output_cost=self.output_cost,
        )
        return (first, *self.fallbacks)

    def longest_prompt(self, answer_tokens: int | None, model: Model | None) -> int | None:
        """Tokens of the longest prompt that any backend (of the `model`, or all) takes with an answer of that length.

        A stated context holds both. The embedded model's answer ends where its slot does, so that only the usual length is kept free. None
        where the context of one of the backends is not known.
        """
        usual = self.default_max_tokens
        wanted = answer_tokens or usual
        upstreams = model.upstreams(self.upstreams) if model else self.upstreams
        sizes = [
            one.context_size - wanted if one.context_size else None if one.base_url else self.slot_tokens - min(wanted, usual)
            for one in upstreams
        ]
        known = [size for size in sizes if size is not None]
        return max(known) if known and len(known) == len(sizes) else None

    @property
    def tiered(self) -> bool:
        """Whether it matters how complex a question is."""
        return bool(self.tier) or any(one.tier for one in self.fallbacks)

    @property
    def regions(self) -> tuple[str, ...]:
        """Regions in the order they are asked, the own one first; none where all are alike."""
        return (self.region, *self.near) if self.region else self.near

    def bearer(self, upstream: Upstream) -> str:
        """The key of a backend: the one it names, or its own."""
        named = self.keys.get(upstream.key) if upstream.key else None
        return (named or upstream.api_key).get_secret_value()

    @model_validator(mode="after")
    def _named(self) -> Self:
        names = [one.name for one in self.upstreams]
        if len(set(names)) < len(names):
            raise ValueError(f"generator.fallbacks: each has a name of its own, other than {PRIMARY!r}")
        return self

    @property
    def quoting(self) -> bool:
        """Whether grounded answers are held to sentences of the passages."""
        return self.quotes if self.quotes is not None else self.base_url is None and self.gguf is None

    @property
    def stage(self) -> GeneratorScaling:
        """The scaling in force: an embedded backend takes as many calls as it has slots, and a few may wait."""
        if self.base_url:
            return self.scaling
        bounds = {"max_ongoing": self.slots, "target_ongoing": self.slots, "max_queued": 16 * self.slots}
        return self.scaling.model_copy(update=bounds)


class Pool(BaseModel):
    """How many answers the backends are asked to write at once, all together: bounds."""

    low: int
    high: int


class Admission(Section):
    """Limits, fair shares and the queue in front of the model backends."""

    max_running: int | None = Field(
        default=None, ge=1, description="Answers written at once by all backends together; default: what the generator stage takes."
    )
    min_running: int | None = Field(
        default=None, ge=1, description="Under load no fewer than these; default: all for the embedded backend, 4 for others."
    )
    max_waiting: int = Field(default=512, ge=0, description="Requests that wait for their turn at once; more get 503.")
    max_waiting_each: int = Field(default=128, ge=0, description="The same for one tenant; more get 429.")
    wait_s: float = Field(default=60, gt=0, description="Longest wait for a turn; who would wait longer is refused at once.")
    background_wait_s: float = Field(default=3600, gt=0, description="The same for background work.")
    ageing_s: float = Field(default=20, gt=0, description="After so long, work of a lower class goes before a higher one.")
    lease_s: float = Field(default=10, gt=0, description="A process without a sign of life for so long has what it reserved given back.")
    top_up_tokens: int = Field(default=64, ge=1, description="Tokens that an answer longer than expected reserves at a time.")
    input_weight: float = Field(default=1, ge=0, description="What a token read weighs in fair shares.")
    output_weight: float = Field(default=2, gt=0, description="What a token written weighs in fair shares.")
    models: dict[str, Rates] = Field(default={}, description="Limits of each tenant for one model, by the model's name.")


class Worker(Section):
    """Background jobs."""

    scaling: WorkerScaling = WorkerScaling()
    poll_s: float = Field(default=1.0, gt=0, description="Pause between two looks for work when nothing wakes the worker.")
    lease_s: float = Field(default=60, gt=0, description="How long a job stays with a worker that gives no sign of life.")
    respond_lease_s: float = Field(default=8, gt=0, description="The same for a background response, which somebody waits for.")
    respond_at_once: int = Field(default=32, ge=1, description="Background responses one worker writes at once.")
    max_attempts: int = Field(default=3, ge=1, description="Times a job is tried before it is given up.")


class Session(Section):
    """What of a conversation goes before its next question."""

    recent_tokens: int = Field(default=500, ge=16, description="Tokens of the newest messages, roughly; at least the last one goes in.")
    recalled_tokens: int = Field(default=200, ge=0, description="Tokens of earlier messages that are like the question, roughly.")
    recalled_items: int = Field(default=4, ge=0, description="Earlier messages that may be recalled at once.")
    remembered_items: int = Field(default=2000, ge=0, description="Earlier messages that are looked through.")
    summary_tokens: int = Field(default=150, ge=16, description="Tokens of the summary of what came before, roughly.")
    summarise_items: int = Field(default=12, ge=2, description="Messages that gather before they are summarised.")


class Log(Section):
    """The response log."""

    tick_ms: float = Field(default=10, gt=0, description="Pause between two flushes of a replica's deltas; a first delta does not wait.")
    max_tick_ms: float = Field(default=50, gt=0, description="The tick under load: it grows with the number of open answers.")
    record: bool = Field(default=True, description="Keep the deltas of a running answer in Valkey, not only push them.")
    ttl_s: int = Field(default=600, ge=1, description="Life of a recorded log after its last delta.")
    max_lag_bytes: int = Field(default=256 << 10, ge=1024, description="Text a slow follower may leave unread before it is cut.")
    stall_s: float = Field(default=10, gt=0, description="How long deltas are held while Valkey is away.")


class Idempotency(Section):
    """Requests with an `Idempotency-Key`."""

    keep_s: float = Field(default=24 * 3600, ge=60, description="How long a reply is kept for requests with the same key.")
    lease_s: float = Field(default=10, gt=0, description="How long a key stays with a gateway that gives no sign of life.")
    wait_s: float = Field(default=30, gt=0, description="How long a request waits for the first one with its key, before it gets 409.")


class Cache(Section):
    """Answers that are given again, for tenants and requests that ask for it."""

    ttl_s: int = Field(default=3600, ge=1, description="Life of a kept answer.")
    max_bytes: int = Field(default=64 << 10, ge=1024, description="Largest answer that is kept.")
    max_entries: int = Field(default=500, ge=1, description="Answers kept of one tenant; the oldest goes first.")
    max_vectors: int = Field(default=64, ge=1, description="Questions that are compared with one that differs from them in its words only.")
    threshold: float = Field(
        default=0.97, ge=0.9, le=1, description="Cosine from which two questions count as one; a request may raise it, not lower it."
    )
    patience_s: float = Field(default=0.2, gt=0, description="How long the cache may take, before the answer is written anew.")


class Node(Section):
    """What `headrace serve` starts beside the app: Ray, Valkey and the edge."""

    num_cpus: int = Field(default=8, ge=1, description="CPUs Ray may give to replicas; a number to share out, not what the machine has.")
    object_store_bytes: int = Field(
        default=100_000_000, ge=80_000_000, description="Ray's object store; the stages pass little through it."
    )
    valkey_bytes: int = Field(default=256 << 20, ge=1 << 20, description="Memory of the embedded Valkey; a write over it is refused.")
    max_connections: int = Field(default=12_000, ge=16, description="Connections the edge holds at once.")
    address_connections: int = Field(
        default=2000, ge=1, description="Connections one client address holds at once; more are closed. Of IPv6, a /64 is one address."
    )
    address_requests_per_s: float = Field(default=0, ge=0, description="Requests one address may send, over 10 s; 0 is no bound.")
    receipt_s: float = Field(
        default=5,
        gt=0,
        description="Time a client has to send its header, and again the start of its body; twice that, and a stall in between cuts it.",
    )
    tls_cert: Path | None = Field(default=None, description="Certificate chain in PEM: the edge speaks HTTPS only. Needs `tls_key`.")
    tls_key: Path | None = Field(default=None, description="Its private key in PEM, not encrypted.")
    drain_s: float = Field(default=5, ge=0, description="How long open answers may go on after Ctrl-C.")

    @model_validator(mode="after")
    def _certified(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together")
        return self
