"""What administration shows, for the OpenAPI document; nothing is written through these."""

from typing import Any, Literal

from deployments.core.canaries import Status
from deployments.core.choices import Kind
from deployments.core.keys import ScopeName
from deployments.core.models import Model
from deployments.core.tenants import LimitTerms
from deployments.core.types import Caching
from deployments.gateway.shapes import Shape


class Tenant(Shape):
    """Who owns things, and what it may do."""

    object: Literal["tenant"]
    id: str
    name: str
    created_at: int
    suspended_at: int | None
    limits: LimitTerms
    models: list[str] | None
    weight: float
    region: str | None
    retention_days: int | None
    cache: Caching
    threshold: float | None


class TenantPage(Shape):
    """A page of tenants."""

    object: Literal["list"]
    data: list[Tenant]
    has_more: bool


class LogicalModel(Model):
    """A model that callers name; the keys of its backends are not shown."""

    object: Literal["logical_model"]


class LogicalModels(Shape):
    """All models."""

    object: Literal["list"]
    data: list[LogicalModel]


class ApiKey(Shape):
    """A key; its secret is there when it is made, and never again."""

    object: Literal["api_key"]
    id: str
    tenant: str
    prefix: str
    name: str
    scopes: list[ScopeName]
    created_at: int
    expires_at: int | None
    revoked: bool
    limits: LimitTerms
    models: list[str] | None
    secret: str = ""


class ApiKeys(Shape):
    """All keys of a tenant."""

    object: Literal["list"]
    data: list[ApiKey]


class Share(Shape):
    """What a tenant got within the last minute, in weighted tokens over its weight, and the leases it holds."""

    tenant: str
    work: float
    leases: int


class Load(Shape):
    """What runs and waits in all processes together, Jain's index over the shares, and what admission takes at the gateway that answers."""

    object: Literal["load"]
    running: int
    waiting: int
    limit: float
    hold_ms: float
    jain: float
    admit_ms: float
    shares: list[Share]


class StageNow(Shape):
    """A stage: what Serve says of it, how many replicas it should have, how many run."""

    stage: str
    status: str
    target: int
    running: int


class QueueNow(Shape):
    """What runs and waits for the slots in force, everywhere."""

    running: int
    waiting: int
    limit: float


class AnswersNow(Shape):
    """The answers of one gateway within the window; what their client ended or lost is no failure."""

    ended: int
    failed: int
    first_p50_ms: float
    first_p95_ms: float
    tokens_per_s: float


class CacheNow(Shape):
    """A cache that the gateway looks into, within the window."""

    cache: str
    looks: int
    hits: int


class OpenNow(Shape):
    """What is open at one gateway."""

    answers: int
    streams: int
    sockets: int


class Ops(Shape):
    """How things are now. `stages` and `queue` are everybody's, null where they can not be asked; what follows is of `gateway` alone."""

    object: Literal["ops"]
    stages: list[StageNow] | None
    queue: QueueNow | None
    gateway: str
    window_s: float
    answers: AnswersNow
    caches: list[CacheNow]
    open: OpenNow


class DayUse(Shape):
    """What one key used of one model on one day."""

    day: str
    key_id: str
    model: str
    requests: int
    prompt_tokens: int
    completion_tokens: int


class Use(Shape):
    """What a tenant has used, newest day first."""

    object: Literal["list"]
    data: list[DayUse]


class LedgerEntry(Shape):
    """Attempts at model calls that are alike in what was asked for, and what they came to; `cost` is in the backends' money."""

    day: str | None = None
    tenant: str | None = None
    key_id: str | None = None
    user: str | None = None
    model: str | None = None
    route: str | None = None
    prompt: str | None = None
    backend: str | None = None
    outcome: str | None = None
    attempts: int
    prompt_tokens: int
    completion_tokens: int
    cost: float


class LedgerPage(Shape):
    """A page of the ledger."""

    object: Literal["list"]
    data: list[LedgerEntry]
    has_more: bool


class AuditVerdict(Shape):
    """Whether the record is as it was written."""

    object: Literal["audit_verdict"]
    entries: int
    head: str
    broken: int | None
    reason: str


class SessionToken(Shape):
    """A token for a browser."""

    object: Literal["session_token"]
    kind: Literal["session", "ticket"]
    token: str
    expires_at: int
    user: str
    scopes: list[ScopeName]
    single_use: bool


class Prompt(Shape):
    """One version of a prompt."""

    object: Literal["prompt"]
    id: str
    version: str
    template: str
    variables: list[str]
    current: bool
    created_at: int


class PromptPage(Shape):
    """Versions of prompts."""

    object: Literal["list"]
    data: list[Prompt]


class Canary(Shape):
    """A variant that part of the turns is given; `reason` is the signal that ended one that was rolled back."""

    object: Literal["canary"]
    id: str
    tenant: str | None
    kind: Kind
    subject: str
    value: str
    weight: float
    status: Status
    reason: str | None
    created_at: int
    changed_at: int


class CanaryPage(Shape):
    """A page of canaries."""

    object: Literal["list"]
    data: list[Canary]
    has_more: bool


class TraceName(Shape):
    """A turn that is kept to be looked at."""

    object: Literal["trace"]
    id: str
    tenant: str
    created_at: int


class TracePage(Shape):
    """The newest of them."""

    object: Literal["list"]
    data: list[TraceName]
    has_more: bool


class Trace(TraceName):
    """One of them, whole: what was asked, what the model was given last, what it said, and the stages in ms from the beginning."""

    model: str
    outcome: str
    first_ms: float | None
    ms: float
    stages: list[dict[str, Any]]
    route: dict[str, Any] | None
    asked: list[dict[str, Any]]
    read: list[dict[str, Any]]
    answer: str
    sources: list[str]
    usage: dict[str, Any] | None
