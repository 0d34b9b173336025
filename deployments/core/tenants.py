"""Tenants as an administrator sees them: made, changed, suspended and resumed."""

from typing import Annotated, Any

import msgspec
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from deployments.core.errors import Conflict
from deployments.core.ids import checked, found, new_id
from deployments.core.limits import Limits
from deployments.core.models import ModelName
from deployments.core.store import Store
from deployments.core.tables import TenantRow
from deployments.core.types import Caching

Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
Bound = Annotated[int, Field(ge=0, le=2**53)]


class Tenant(msgspec.Struct, frozen=True):
    """Who owns things, and what it may do. `models` None is every model; times are in Unix seconds."""

    id: str
    name: str
    created_at: int
    suspended_at: int | None = None
    limits: Limits = Limits()
    models: frozenset[str] | None = None
    weight: float = 1.0
    region: str | None = None
    retention_days: int | None = None
    cache: Caching = "off"
    threshold: float | None = None


class LimitTerms(BaseModel):
    """Limits as they are set; what is not named, or null, is not bounded."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests_per_minute: Bound | None = None
    tokens_per_minute: Bound | None = None
    requests_per_day: Bound | None = None
    tokens_per_day: Bound | None = None
    tokens_per_month: Bound | None = None
    concurrent: Bound | None = None
    concurrent_per_session: Bound | None = None


class Terms(BaseModel):
    """What an administrator may set of a tenant; what is not named stays as it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name = "tenant"
    limits: LimitTerms = LimitTerms()
    models: Annotated[list[ModelName], Field(max_length=100)] | None = None
    weight: float = Field(default=1.0, gt=0, le=1000, allow_inf_nan=False)
    region: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,64}$")] | None = None
    retention_days: Annotated[int, Field(ge=1, le=36_500)] | None = None
    cache: Caching = "off"
    threshold: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)

    def changes(self) -> dict[str, Any]:
        """The columns that were named."""
        changed = self.model_dump(exclude_unset=True, exclude={"limits"})
        return changed | ({"limits": self.limits.model_dump(exclude_none=True)} if "limits" in self.model_fields_set else {})


class Tenants:
    """The tenants of one installation; every change is on the audit record under the name of who made it."""

    def __init__(self, store: Store, actor: str):
        self._store = store
        self._actor = actor

    async def add(self, terms: Terms, name: str | None = None) -> Tenant:
        """Make a tenant, with that id if one is given; raises Conflict."""
        name = checked("tenant", name) if name else new_id("ten_")
        made = int(self._store.clock())
        async with self._store.write() as session:
            if await session.get(TenantRow, name):
                raise Conflict(f"there is a tenant '{name}' already", param="id")
            row = TenantRow(id=name, name=terms.name, created_at=made, key=self._store.vault.new_key(name), weight=1.0, cache="off")
            return await self._change(session, row, "tenant.created", terms.changes())

    async def list(self, after: str = "", limit: int | None = None) -> list[Tenant]:
        """Tenants behind an id, by id; all of them unless a limit is given."""
        found = select(TenantRow).where(TenantRow.id > after).order_by(TenantRow.id).limit(limit)
        async with self._store.session() as session:
            return [tenant_of(row) for row in await session.scalars(found)]

    async def get(self, name: str) -> Tenant:
        """One tenant; raises NotFound."""
        async with self._store.session() as session:
            return tenant_of(found(await session.get(TenantRow, checked("tenant", name)), "tenant", name))

    async def update(self, name: str, terms: Terms) -> Tenant:
        """Set what the terms name; raises NotFound."""
        return await self._act(name, "tenant.changed", terms.changes())

    async def suspend(self, name: str) -> Tenant:
        """Refuse everything the tenant asks from now on; raises NotFound."""
        return await self._act(name, "tenant.suspended", {"suspended_at": int(self._store.clock())})

    async def resume(self, name: str) -> Tenant:
        """End a suspension; raises NotFound."""
        return await self._act(name, "tenant.resumed", {"suspended_at": None})

    async def _act(self, name: str, act: str, changes: dict[str, Any]) -> Tenant:
        async with self._store.write() as session:
            row = await session.get(TenantRow, checked("tenant", name), with_for_update=True)
            return await self._change(session, found(row, "tenant", name), act, changes)

    async def _change(self, session: AsyncSession, row: TenantRow, act: str, changes: dict[str, Any]) -> Tenant:
        for column, value in changes.items():
            setattr(row, column, value)
        session.add(row)
        await session.flush()
        await self._store.audit.append(session, self._actor, act, row.id, row.id, **changes)
        return tenant_of(row)


def tenant_of(row: TenantRow) -> Tenant:
    """A tenant as its row has it."""
    models = None if row.models is None else frozenset(row.models)
    limits = msgspec.convert(row.limits or {}, Limits)
    cache = msgspec.convert(row.cache, Caching)
    shown = row.id, row.name, row.created_at, row.suspended_at, limits, models, row.weight, row.region, row.retention_days
    return Tenant(*shown, cache, row.threshold)
