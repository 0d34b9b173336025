"""/admin/traces: turns that are kept to be looked at, where `telemetry.kept` says so."""

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query

from deployments.gateway.accounts import Trace, TracePage
from deployments.gateway.bodies import BodyRoute
from deployments.gateway.context import Admin, PageSize, Parts
from deployments.gateway.shapes import gives

router = APIRouter(prefix="/admin/traces", route_class=BodyRoute)


@router.get("", responses=gives(TracePage))
async def traces(
    parts: Parts, caller: Admin, tenant: Annotated[str | None, Query(max_length=64)] = None, limit: PageSize = 20
) -> dict[str, Any]:
    """The newest of them; nothing of what was said."""
    found = await parts.traces.list(limit + 1, tenant)
    data = [{"object": "trace", "id": name, "tenant": whose, "created_at": at} for name, whose, at in found[:limit]]
    return {"object": "list", "data": data, "has_more": len(found) > limit}


@router.get("/{trace_id}", responses=gives(Trace))
async def retrieve(trace_id: str, parts: Parts, caller: Admin) -> dict[str, Any]:
    """One of them, whole; that it was read goes on the audit record."""
    found = await parts.traces.get(trace_id, caller.key_id)
    return {"object": "trace"} | msgspec.to_builtins(found)
