"""/admin: tenants, keys and the audit record, for whoever runs the installation."""

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from deployments.core.errors import InvalidRequest
from deployments.core.keys import ScopeName
from deployments.core.limits import Limits
from deployments.core.models import ModelName
from deployments.core.tenants import LimitTerms, Tenants, Terms
from deployments.core.types import Principal
from deployments.core.usage import Books
from deployments.gateway.accounts import ApiKey, ApiKeys, AuditVerdict, Load, Tenant, TenantPage, Use
from deployments.gateway.bodies import BodyRoute
from deployments.gateway.context import Admin, Context, PageSize, Parts
from deployments.gateway.shapes import gives, serves

router = APIRouter(prefix="/admin", route_class=BodyRoute)

_YEAR_S = 366 * 24 * 3600

Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


After = Annotated[str, Query(pattern=r"^[A-Za-z0-9_-]{0,64}$")]


class NewTenant(Terms):
    """A tenant to make; without an id it gets one."""

    id: Id | None = None


class NewKey(BaseModel):
    """A key to make; without `expires_in_s` it stays until it is revoked."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")] = ""
    scopes: list[ScopeName] = Field(min_length=1, max_length=8)
    expires_in_s: int | None = Field(default=None, ge=1, le=10 * _YEAR_S)
    limits: LimitTerms = LimitTerms()
    models: Annotated[list[ModelName], Field(max_length=100)] | None = None


class Rotation(BaseModel):
    """How long the old key works beside the new one."""

    model_config = ConfigDict(extra="forbid")

    overlap_s: int = Field(default=3600, ge=0, le=_YEAR_S)


@router.get("/tenants", responses=gives(TenantPage))
async def tenants(parts: Parts, caller: Admin, after: After = "", limit: PageSize = 100) -> dict[str, Any]:
    """A page of the tenants, by id."""
    found = await _tenants(parts, caller).list(after, limit + 1)
    return {"object": "list", "data": [_shape("tenant", tenant) for tenant in found[:limit]], "has_more": len(found) > limit}


@router.post("/tenants", responses=gives(Tenant))
async def create(body: NewTenant, parts: Parts, caller: Admin) -> dict[str, Any]:
    """Make a tenant."""
    terms = Terms.model_validate(body.model_dump(exclude_unset=True, exclude={"id"}))
    return _shape("tenant", await _tenants(parts, caller).add(terms, body.id))


@router.get("/tenants/{tenant}", responses=gives(Tenant))
async def retrieve(tenant: str, parts: Parts, caller: Admin) -> dict[str, Any]:
    """One tenant."""
    return _shape("tenant", await _tenants(parts, caller).get(tenant))


@router.patch("/tenants/{tenant}", responses=gives(Tenant))
async def update(tenant: str, body: Terms, parts: Parts, caller: Admin) -> dict[str, Any]:
    """Set what the body names; `limits` are replaced as a whole."""
    return _shape("tenant", await _tenants(parts, caller).update(tenant, body))


@router.post("/tenants/{tenant}/suspend", responses=gives(Tenant))
async def suspend(tenant: str, parts: Parts, caller: Admin) -> dict[str, Any]:
    """Refuse everything the tenant asks."""
    if tenant == caller.tenant:
        raise InvalidRequest("this would lock you out; the command line can do it", code="own_tenant")
    return _shape("tenant", await _tenants(parts, caller).suspend(tenant))


@router.post("/tenants/{tenant}/resume", responses=gives(Tenant))
async def resume(tenant: str, parts: Parts, caller: Admin) -> dict[str, Any]:
    """End a suspension."""
    return _shape("tenant", await _tenants(parts, caller).resume(tenant))


@router.get("/tenants/{tenant}/keys", responses=gives(ApiKeys))
async def keys(tenant: str, parts: Parts, caller: Admin) -> dict[str, Any]:
    """The keys of a tenant; their secrets are kept nowhere."""
    return {"object": "list", "data": [_shape("api_key", key) for key in await parts.keys.list(tenant)]}


@router.post("/tenants/{tenant}/keys", responses=gives(ApiKey))
async def mint(tenant: str, body: NewKey, parts: Parts, caller: Admin) -> dict[str, Any]:
    """Make a key; the answer is the only place its secret is ever in."""
    ends = int(parts.store.clock()) + body.expires_in_s if body.expires_in_s else None
    limits = msgspec.convert(body.limits.model_dump(exclude_none=True), Limits)
    scopes = sorted(set(body.scopes))
    made = await parts.keys.mint(tenant, scopes, expires_at=ends, name=body.name, limits=limits, models=body.models, actor=caller.key_id)
    return _shape("api_key", await parts.keys.get(made.id)) | {"secret": made.secret}


@router.post("/keys/{key_id}/rotate", responses=gives(ApiKey))
async def rotate(key_id: str, parts: Parts, caller: Admin, body: Rotation | None = None) -> dict[str, Any]:
    """Make a key in place of another, which works a while longer."""
    made = await parts.keys.rotate(key_id, (body or Rotation()).overlap_s, actor=caller.key_id)
    return _shape("api_key", await parts.keys.get(made.id)) | {"secret": made.secret}


@router.delete("/keys/{key_id}", responses=gives(ApiKey))
async def revoke(key_id: str, parts: Parts, caller: Admin) -> dict[str, Any]:
    """End a key."""
    await parts.keys.revoke(key_id, actor=caller.key_id)
    return _shape("api_key", await parts.keys.get(key_id))


@router.get("/tenants/{tenant}/usage", responses=gives(Use))
async def usage(tenant: str, parts: Parts, caller: Admin, days: Annotated[int, Query(ge=1, le=366)] = 31) -> dict[str, Any]:
    """What a tenant has used within some days, as the books have it: a second behind at most."""
    await _tenants(parts, caller).get(tenant)
    return {"object": "list", "data": [msgspec.to_builtins(one) for one in await Books(parts.store).of(tenant, days)]}


@router.get("/load", responses=gives(Load))
async def load(parts: Parts, caller: Admin) -> dict[str, Any]:
    """What runs and waits now, in all processes together."""
    seen = await parts.gate.look()
    shares = [{"tenant": tenant, "work": work, "leases": leases} for tenant, work, leases in seen.shares]
    return {"object": "load", **msgspec.structs.asdict(seen), "shares": shares, "jain": seen.jain, "admit_ms": parts.gate.admit_ms}


@router.get("/audit", response_class=Response, responses=serves("application/x-ndjson", 200))
async def export(
    parts: Parts, caller: Admin, after: Annotated[int, Query(ge=0, lt=2**53)] = 0, limit: Annotated[int, Query(ge=1, le=1000)] = 1000
) -> Response:
    """A page of the audit record as one JSON object a line; the last line's `number` is the next page's `after`."""
    lines = msgspec.json.Encoder().encode_lines(await parts.store.audit.entries(after, limit))
    return Response(lines, media_type="application/x-ndjson")


@router.get("/audit/verify", responses=gives(AuditVerdict))
async def verify(parts: Parts, caller: Admin) -> dict[str, Any]:
    """Whether the whole record is as it was written, and where it breaks if not."""
    return _shape("audit_verdict", await parts.store.audit.verify())


def _tenants(parts: Context, caller: Principal) -> Tenants:
    return Tenants(parts.store, caller.key_id)


def _shape(kind: str, shown: msgspec.Struct) -> dict[str, Any]:
    return {"object": kind, **msgspec.to_builtins(shown)}
