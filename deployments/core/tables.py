"""The SQL schema; `migrations/` makes it, a test proves that both agree."""

from typing import Any

from sqlalchemy import BigInteger, Boolean, Float, ForeignKey, Index, Integer, LargeBinary, MetaData, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import JSON


class Base(DeclarativeBase):
    """The root of all tables; every constraint has a name, so that a later migration can reach it."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class TenantRow(Base):
    """Who owns things, and what it may do; a tenant with `suspended_at` may do nothing."""

    __tablename__ = "tenants"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    created_at: Mapped[int] = mapped_column(BigInteger)
    key: Mapped[bytes] = mapped_column(LargeBinary)
    suspended_at: Mapped[int | None] = mapped_column(BigInteger)
    limits: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    models: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    weight: Mapped[float] = mapped_column(Float, server_default="1")
    region: Mapped[str | None] = mapped_column(String(64))
    retention_days: Mapped[int | None] = mapped_column(Integer)
    cache: Mapped[str] = mapped_column(String(16), server_default="off")
    threshold: Mapped[float | None] = mapped_column(Float)


class ModelRow(Base):
    """A logical model as an administrator has set it; without a `spec` it hides the one of the settings that has its name."""

    __tablename__ = "models"
    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    spec: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    changed_at: Mapped[int] = mapped_column(BigInteger)


class KeyRow(Base):
    """An API key, kept as HMAC-SHA256 of the secret with a pepper; `prefix` finds it."""

    __tablename__ = "api_keys"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    prefix: Mapped[str] = mapped_column(String(32), unique=True)
    digest: Mapped[bytes] = mapped_column(LargeBinary(32))
    name: Mapped[str] = mapped_column(String(200))
    scopes: Mapped[list[str]] = mapped_column(JSON)
    created_at: Mapped[int] = mapped_column(BigInteger)
    expires_at: Mapped[int | None] = mapped_column(BigInteger)
    revoked: Mapped[bool] = mapped_column(Boolean, default=False)
    limits: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    models: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))


class AuditRow(Base):
    """An act that is on record; `hash` is that of this row's canonical JSON behind `previous`, the hash of the row before."""

    __tablename__ = "audit"
    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    at: Mapped[int] = mapped_column(BigInteger)
    actor: Mapped[str] = mapped_column(String(200))
    act: Mapped[str] = mapped_column(String(64))
    tenant: Mapped[str | None] = mapped_column(String(64))
    subject: Mapped[str] = mapped_column(String(200))
    detail: Mapped[str] = mapped_column(Text)
    previous: Mapped[bytes] = mapped_column(LargeBinary(32))
    hash: Mapped[bytes] = mapped_column(LargeBinary(32))


class AuditHeadRow(Base):
    """Where the record ends, under a MAC: what is missing at its end is missed. Writers queue for this row."""

    __tablename__ = "audit_head"
    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    number: Mapped[int] = mapped_column(BigInteger)
    hash: Mapped[bytes] = mapped_column(LargeBinary(32))
    mac: Mapped[bytes] = mapped_column(LargeBinary(32))


class SessionRow(Base):
    """A browser session that was opened with a key; kept as a digest of its cookie."""

    __tablename__ = "sessions"
    digest: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True)
    key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id"))
    expires_at: Mapped[int] = mapped_column(BigInteger, index=True)


class StoreRow(Base):
    """A vector store: one searchable collection of a tenant; `version` counts the changes of its content."""

    __tablename__ = "vector_stores"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    name: Mapped[str] = mapped_column(String(256))
    labels: Mapped[dict[str, str]] = mapped_column("metadata", JSON)
    created_at: Mapped[int] = mapped_column(BigInteger)
    version: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    description: Mapped[str | None] = mapped_column(String(512))


class FileRow(Base):
    """An uploaded file: its bytes, and its title and text once it has been parsed; these three are sealed."""

    __tablename__ = "files"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    filename: Mapped[str] = mapped_column(String(1024))
    purpose: Mapped[str] = mapped_column(String(32))
    sha256: Mapped[str] = mapped_column(String(64))
    size: Mapped[int] = mapped_column("bytes", Integer)
    created_at: Mapped[int] = mapped_column(BigInteger)
    data_key: Mapped[bytes] = mapped_column(LargeBinary)
    content: Mapped[bytes] = mapped_column(LargeBinary, deferred=True)
    title: Mapped[bytes | None] = mapped_column(LargeBinary)
    text: Mapped[bytes | None] = mapped_column(LargeBinary, deferred=True)
    expires_at: Mapped[int | None] = mapped_column(BigInteger)


class MemberRow(Base):
    """A file in a vector store, and how its ingestion stands; `recipe` is a digest of all that its passages depend on."""

    __tablename__ = "vector_store_files"
    store_id: Mapped[str] = mapped_column(ForeignKey("vector_stores.id"), primary_key=True)
    file_id: Mapped[str] = mapped_column(ForeignKey("files.id"), primary_key=True, index=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    status: Mapped[str] = mapped_column(String(16))
    error_code: Mapped[str | None] = mapped_column(String(32))
    error_message: Mapped[str | None] = mapped_column(Text)
    attributes: Mapped[dict[str, str | float | bool]] = mapped_column(JSON)
    created_at: Mapped[int] = mapped_column(BigInteger)
    usage_bytes: Mapped[int] = mapped_column(Integer, default=0)
    chunk_tokens: Mapped[int | None] = mapped_column(Integer)
    recipe: Mapped[str | None] = mapped_column(String(64))
    __table_args__ = (Index("members_recipe", "tenant_id", "recipe"),)


class BatchRow(Base):
    """Files that were put into a vector store together."""

    __tablename__ = "file_batches"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    store_id: Mapped[str] = mapped_column(ForeignKey("vector_stores.id"), index=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    created_at: Mapped[int] = mapped_column(BigInteger)
    cancelled: Mapped[bool] = mapped_column(Boolean, default=False)


class BatchFileRow(Base):
    """A file of a batch; `unknown` where the tenant had no such file when it was asked for. How it stands is told by its member."""

    __tablename__ = "file_batch_files"
    batch_id: Mapped[str] = mapped_column(ForeignKey("file_batches.id"), primary_key=True)
    file_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    unknown: Mapped[bool] = mapped_column(Boolean, default=False)


class UploadRow(Base):
    """A file that comes in parts; `keep_s` is how long the file will live, where that is bounded."""

    __tablename__ = "uploads"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    filename: Mapped[str] = mapped_column(String(1024))
    purpose: Mapped[str] = mapped_column(String(32))
    size: Mapped[int] = mapped_column("bytes", BigInteger)
    created_at: Mapped[int] = mapped_column(BigInteger)
    expires_at: Mapped[int] = mapped_column(BigInteger)
    status: Mapped[str] = mapped_column(String(16))
    keep_s: Mapped[int | None] = mapped_column(Integer)
    file_id: Mapped[str | None] = mapped_column(String(64))
    data_key: Mapped[bytes] = mapped_column(LargeBinary)


class UploadPartRow(Base):
    """A part of an upload that is open, sealed; it goes when the upload ends, however it does."""

    __tablename__ = "upload_parts"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    upload_id: Mapped[str] = mapped_column(ForeignKey("uploads.id"), index=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    size: Mapped[int] = mapped_column("bytes", BigInteger)
    created_at: Mapped[int] = mapped_column(BigInteger)
    content: Mapped[bytes] = mapped_column(LargeBinary, deferred=True)


class PassageRow(Base):
    """One passage: its span in the file's text; its headings, attributes and vector, as little-endian float32, are sealed."""

    __tablename__ = "passages"
    store_id: Mapped[str] = mapped_column(ForeignKey("vector_stores.id"), primary_key=True)
    file_id: Mapped[str] = mapped_column(ForeignKey("files.id"), primary_key=True, index=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    start: Mapped[int] = mapped_column(Integer)
    end: Mapped[int] = mapped_column(Integer)
    tokens: Mapped[int] = mapped_column(Integer)
    headings: Mapped[bytes] = mapped_column(LargeBinary)
    vector: Mapped[bytes] = mapped_column(LargeBinary, deferred=True)
    attributes: Mapped[bytes | None] = mapped_column(LargeBinary)


class JobRow(Base):
    """Work to be done; times are in milliseconds since 1970."""

    __tablename__ = "jobs"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    kind: Mapped[str] = mapped_column(String(32))
    subject: Mapped[str] = mapped_column(String(160))
    status: Mapped[str] = mapped_column(String(16))
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    fence: Mapped[int] = mapped_column(BigInteger, default=0)
    run_at: Mapped[int] = mapped_column(BigInteger)
    leased_until: Mapped[int] = mapped_column(BigInteger, default=0)
    again: Mapped[bool] = mapped_column(Boolean, default=False)
    created_at: Mapped[int] = mapped_column(BigInteger)
    error_message: Mapped[str | None] = mapped_column(Text)
    __table_args__ = (
        UniqueConstraint("tenant_id", "kind", "subject", name="uq_jobs_subject"),
        Index("jobs_due", "status", "kind", "run_at"),
    )


class ResponseRow(Base):
    """A response: how it was asked for, its latest object, and its turn while it waits for a worker; these three are sealed.

    `prompt` is the one it named, as `id@version`; `variants` is the arm of each canary that it was part of.
    """

    __tablename__ = "responses"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    status: Mapped[str] = mapped_column(String(16))
    background: Mapped[bool] = mapped_column(Boolean)
    created_at: Mapped[int] = mapped_column(BigInteger)
    previous_id: Mapped[str | None] = mapped_column(String(64))
    conversation_id: Mapped[str | None] = mapped_column(String(64))
    prompt: Mapped[str | None] = mapped_column(String(80))
    variants: Mapped[dict[str, str] | None] = mapped_column(JSON(none_as_null=True))
    data_key: Mapped[bytes] = mapped_column(LargeBinary)
    asked: Mapped[bytes] = mapped_column(LargeBinary)
    body: Mapped[bytes] = mapped_column(LargeBinary)
    turn: Mapped[bytes | None] = mapped_column(LargeBinary, deferred=True)


class ResponseItemRow(Base):
    """An item of a response's input or output, sealed; positions count from 0 over both."""

    __tablename__ = "response_items"
    response_id: Mapped[str] = mapped_column(ForeignKey("responses.id"), primary_key=True)
    position: Mapped[int] = mapped_column(Integer, primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    item_id: Mapped[str] = mapped_column(String(80))
    output: Mapped[bool] = mapped_column(Boolean)
    body: Mapped[bytes] = mapped_column(LargeBinary)
    __table_args__ = (Index("response_items_item", "tenant_id", "item_id"),)


class ConversationRow(Base):
    """A conversation; its metadata and its summary are sealed. `summarised` counts the positions the summary speaks of."""

    __tablename__ = "conversations"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    created_at: Mapped[int] = mapped_column(BigInteger)
    data_key: Mapped[bytes] = mapped_column(LargeBinary)
    labels: Mapped[bytes] = mapped_column("metadata", LargeBinary)
    next_position: Mapped[int] = mapped_column(Integer, default=0)
    summary: Mapped[bytes | None] = mapped_column(LargeBinary)
    summarised: Mapped[int] = mapped_column(Integer, default=0)


class ConversationItemRow(Base):
    """An item of a conversation, sealed, and the vector of its words once it has one, sealed as well."""

    __tablename__ = "conversation_items"
    conversation_id: Mapped[str] = mapped_column(ForeignKey("conversations.id"), primary_key=True)
    position: Mapped[int] = mapped_column(Integer, primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    item_id: Mapped[str] = mapped_column(String(80))
    body: Mapped[bytes] = mapped_column(LargeBinary)
    vector: Mapped[bytes | None] = mapped_column(LargeBinary, deferred=True)
    __table_args__ = (Index("conversation_items_item", "tenant_id", "item_id"),)


class UsageRow(Base):
    """What a key of a tenant has used of a model on one day, in days since 1970 (UTC)."""

    __tablename__ = "usage"
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    key_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    model: Mapped[str] = mapped_column(String(256), primary_key=True)
    day: Mapped[int] = mapped_column(Integer, primary_key=True)
    requests: Mapped[int] = mapped_column(BigInteger)
    prompt_tokens: Mapped[int] = mapped_column(BigInteger)
    completion_tokens: Mapped[int] = mapped_column(BigInteger)


class LedgerRow(Base):
    """What attempts at model calls of one day (in days since 1970, UTC) came to, for each of the columns before `attempts`.

    `outcome` is `ok`, `stopped` or the code of an error; `nano_cost` is in billionths of the money that the backends' costs are in.
    """

    __tablename__ = "ledger"
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    day: Mapped[int] = mapped_column(Integer, primary_key=True)
    key_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    user_id: Mapped[str] = mapped_column(String(256), primary_key=True)
    model: Mapped[str] = mapped_column(String(256), primary_key=True)
    route: Mapped[str] = mapped_column(String(64), primary_key=True)
    prompt: Mapped[str] = mapped_column(String(256), primary_key=True)
    backend: Mapped[str] = mapped_column(String(64), primary_key=True)
    outcome: Mapped[str] = mapped_column(String(64), primary_key=True)
    attempts: Mapped[int] = mapped_column(BigInteger)
    prompt_tokens: Mapped[int] = mapped_column(BigInteger)
    completion_tokens: Mapped[int] = mapped_column(BigInteger)
    nano_cost: Mapped[int] = mapped_column(BigInteger)


class AttemptRow(Base):
    """A request with an idempotency key, by a digest of both: who answers it, until when, and its reply, sealed, once there is one.

    `response_id` names the response that is its answer. `leased_until` and `expires_at` are in milliseconds since 1970.
    """

    __tablename__ = "attempts"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    request: Mapped[bytes] = mapped_column(LargeBinary(32), default=b"")
    holder: Mapped[str] = mapped_column(String(32), default="")
    leased_until: Mapped[int] = mapped_column(BigInteger, default=0)
    expires_at: Mapped[int] = mapped_column(BigInteger, default=0, index=True)
    response_id: Mapped[str | None] = mapped_column(String(64))
    data_key: Mapped[bytes | None] = mapped_column(LargeBinary)
    reply: Mapped[bytes | None] = mapped_column(LargeBinary)
    __table_args__ = (Index("attempts_response", "tenant_id", "response_id"),)


class PromptRow(Base):
    """One version of a prompt of a tenant; its template, which is sealed, never changes. One version of a name at most is current."""

    __tablename__ = "prompts"
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    version: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    current: Mapped[bool] = mapped_column(Boolean)
    created_at: Mapped[int] = mapped_column(BigInteger)
    data_key: Mapped[bytes] = mapped_column(LargeBinary)
    template: Mapped[bytes] = mapped_column(LargeBinary)


class CanaryRow(Base):
    """A variant that part of the turns is given, of one tenant or of all. `place` is what it varies while in force: no two at once."""

    __tablename__ = "canaries"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant_id: Mapped[str | None] = mapped_column(ForeignKey("tenants.id"))
    kind: Mapped[str] = mapped_column(String(16))
    subject: Mapped[str] = mapped_column(String(64))
    value: Mapped[str] = mapped_column(String(64))
    weight: Mapped[float] = mapped_column(Float)
    status: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[int] = mapped_column(BigInteger)
    changed_at: Mapped[int] = mapped_column(BigInteger)
    place: Mapped[str | None] = mapped_column(String(160), unique=True)


class ApprovalRow(Base):
    """An approval of a call of a tool that has been used; `forget_at`, in Unix seconds, is long after it would have ended."""

    __tablename__ = "approvals"
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    id: Mapped[str] = mapped_column(String(80), primary_key=True)
    forget_at: Mapped[int] = mapped_column(BigInteger, index=True)


class TraceRow(Base):
    """A turn that is kept to be looked at later, sealed."""

    __tablename__ = "traces"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    created_at: Mapped[int] = mapped_column(BigInteger, index=True)
    body: Mapped[bytes] = mapped_column(LargeBinary)
