"""Canaries in SQL: a variant for part of the turns, watched against the rest, until it is promoted, stopped or rolled back.

What varies is the version of a prompt (of one tenant), the backend that is asked first, or a setting of retrieval; everything else, the
control included, is as it would be without the canary. Every change is on the audit record.
"""

from typing import Annotated, Literal, Self

import msgspec
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from sqlalchemy import func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from deployments.core.choices import Kind
from deployments.core.errors import Conflict, InvalidRequest
from deployments.core.ids import checked, found, new_id
from deployments.core.prompts import BUILT_IN
from deployments.core.store import Store
from deployments.core.tables import CanaryRow, TenantRow

Status = Literal["running", "promoted", "stopped", "rolled_back"]
RETRIEVAL = {"limit": (1, 50), "context_tokens": (0, 8000)}
"""Settings of retrieval that may vary, and their bounds: passages in a prompt, and the tokens that these may take."""
MOST_OPEN = 32
"""Canaries in force at once: each turn is looked up in all of them."""
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Canary(msgspec.Struct, frozen=True):
    """A canary as an administrator sees it; `tenant` None is all of them, times are in Unix seconds."""

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


class Variation(BaseModel):
    """What a canary varies: `subject` is a prompt or a setting, "" for a model; `value` is a version, a backend or a number."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    subject: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{0,64}$")] = ""
    value: Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[\w./:-]*$")]
    weight: Share = 0.05
    tenant: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")] | None = None

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.kind == "prompt" and not (self.tenant and self.subject):
            raise ValueError("a prompt is that of a tenant, and has an id")
        if self.kind == "prompt" and self.subject == "summary":
            raise ValueError("no turn is answered with the summary's prompt")
        if self.kind == "model" and self.subject:
            raise ValueError("a model has no subject: its name is the value")
        if self.kind == "retrieval":
            self._bounded()
        return self

    def _bounded(self) -> None:
        if self.subject not in RETRIEVAL:
            raise ValueError(f"what may vary of retrieval is {', '.join(RETRIEVAL)}")
        least, most = RETRIEVAL[self.subject]
        if not (self.value.isascii() and self.value.isdecimal() and least <= int(self.value) <= most):
            raise ValueError(f"{self.subject} is a number from {least} to {most}")

    @property
    def varies(self) -> str:
        """What varies, in a word."""
        return f"{self.kind}/{self.subject}" if self.subject else self.kind

    @property
    def place(self) -> str:
        """What varies, for whom: of such a place one canary is in force at a time."""
        return f"{self.tenant or ''}/{self.varies}"


class Canaries:
    """The canaries of one installation, as `actor` changes them."""

    def __init__(self, store: Store, actor: str):
        self._store = store
        self._actor = actor

    async def start(self, wanted: Variation) -> Canary:
        """Begin one; raises NotFound for a tenant or prompt that is not there, Conflict where another varies the same.

        A prompt takes the variables of the current version, or its callers would be refused; raises InvalidRequest.
        """
        await self._fits(wanted)
        made = int(self._store.clock())
        row = CanaryRow(id=new_id("can_"), tenant_id=wanted.tenant, place=wanted.place, status="running", created_at=made, changed_at=made)
        row.kind, row.subject, row.value, row.weight = wanted.kind, wanted.subject, wanted.value, wanted.weight
        try:
            async with self._store.write() as session:
                await self._there(session, wanted)
                session.add(row)
                await session.flush()
                return await self._record(session, row, "canary.started", varies=wanted.varies, value=wanted.value, weight=wanted.weight)
        except IntegrityError:
            raise Conflict("another canary varies the same; stop it first") from None

    async def list(self, after: str = "", limit: int = 100) -> list[Canary]:
        """Canaries, the newest first, behind an id."""
        rows = select(CanaryRow).order_by(CanaryRow.id.desc()).limit(limit)
        async with self._store.session() as session:
            return [shown(row) for row in await session.scalars(rows.where(CanaryRow.id < after) if after else rows)]

    async def get(self, canary_id: str) -> Canary:
        """One canary; raises NotFound."""
        async with self._store.session() as session:
            return shown(found(await session.get(CanaryRow, checked("canary", canary_id)), "canary", canary_id))

    async def weigh(self, canary_id: str, weight: float) -> Canary:
        """Give the variant another share of the turns, 0..1; raises NotFound, or InvalidRequest where it does not run."""
        async with self._store.write() as session:
            row = await self._open(session, canary_id)
            row.weight = weight
            return await self._record(session, row, "canary.weighed", weight=weight)

    async def promote(self, canary_id: str) -> Canary:
        """Give everybody the variant: a prompt's version becomes the current one, anything else stays in force until it is stopped.

        Raises NotFound, or InvalidRequest where it does not run.
        """
        async with self._store.write() as session:
            row = await self._open(session, canary_id)
            row.status = "promoted"
            if row.kind == "prompt" and row.tenant_id:
                row.place = None
                await self._store.of_tenant(row.tenant_id).prompts.make_current(session, row.subject, row.value)
            return await self._record(session, row, "canary.promoted", value=row.value)

    async def stop(self, canary_id: str) -> Canary:
        """Give nobody the variant any more; raises NotFound, or InvalidRequest where it is not in force."""
        async with self._store.write() as session:
            row = await self._row(session, canary_id)
            if row.place is None:
                raise InvalidRequest(f"the canary is {row.status}", code="canary_ended")
            row.status, row.place = "stopped", None
            return await self._record(session, row, "canary.stopped")

    async def roll_back(self, canary_id: str, reason: str, **figures: float) -> bool:
        """End a canary that does worse than the control; False where somebody has ended or promoted it already."""
        async with self._store.write() as session:
            ends = {"status": "rolled_back", "place": None, "reason": reason, "changed_at": int(self._store.clock())}
            mine = update(CanaryRow).where(CanaryRow.id == canary_id, CanaryRow.status == "running")
            ended = await session.scalar(mine.values(**ends).returning(CanaryRow.tenant_id.is_(None)))
            if ended is None:
                return False
            row = await self._row(session, canary_id)
            await self._store.audit.append(session, self._actor, "canary.rolled_back", row.tenant_id, row.id, reason=reason, **figures)
            return True

    async def _fits(self, wanted: Variation) -> None:
        """Raises InvalidRequest where a version has other variables than the current one, NotFound where either is not there."""
        if wanted.kind == "prompt" and wanted.tenant and wanted.subject not in BUILT_IN:
            prompts = self._store.of_tenant(wanted.tenant).prompts
            if (await prompts.get(wanted.subject, wanted.value)).variables != (await prompts.get(wanted.subject)).variables:
                raise InvalidRequest("that version has other variables than the current one", param="value", code="invalid_value")

    async def _there(self, session: AsyncSession, wanted: Variation) -> None:
        """Raises NotFound or InvalidRequest where there is not what is to vary, or there is no room."""
        if wanted.tenant:
            found(await session.get(TenantRow, wanted.tenant), "tenant", wanted.tenant)
            if wanted.kind == "prompt":
                await self._store.of_tenant(wanted.tenant).prompts.require(session, wanted.subject, wanted.value)
        open_ = select(func.count()).select_from(CanaryRow).where(CanaryRow.place.is_not(None))
        if (await session.scalar(open_) or 0) >= MOST_OPEN:
            raise InvalidRequest(f"at most {MOST_OPEN} canaries at once", code="too_many_canaries")

    async def _row(self, session: AsyncSession, canary_id: str) -> CanaryRow:
        row = await session.get(CanaryRow, checked("canary", canary_id), with_for_update=True)
        return found(row, "canary", canary_id)

    async def _open(self, session: AsyncSession, canary_id: str) -> CanaryRow:
        row = await self._row(session, canary_id)
        if row.status != "running":
            raise InvalidRequest(f"the canary is {row.status}", code="canary_ended")
        return row

    async def _record(self, session: AsyncSession, row: CanaryRow, act: str, **detail: object) -> Canary:
        row.changed_at = int(self._store.clock())
        await session.flush()
        await self._store.audit.append(session, self._actor, act, row.tenant_id, row.id, **detail)
        return shown(row)


async def in_force(session: AsyncSession) -> list[Canary]:
    """The canaries that turns are part of, and the promoted ones that stay in force, oldest first."""
    rows = select(CanaryRow).where(CanaryRow.place.is_not(None)).order_by(CanaryRow.id)
    return [shown(row) for row in await session.scalars(rows)]


def shown(row: CanaryRow) -> Canary:
    """A canary as its row has it."""
    kind, status = msgspec.convert(row.kind, Kind), msgspec.convert(row.status, Status)
    times = row.created_at, row.changed_at
    return Canary(row.id, row.tenant_id, kind, row.subject, row.value, row.weight, status, row.reason, *times)
