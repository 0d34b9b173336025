"""/admin/canaries: variants for part of the turns, begun, weighed, promoted and stopped while everything runs."""

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict

from deployments.core.canaries import Canaries, Canary, Share, Variation
from deployments.core.catalogue import Models
from deployments.core.errors import InvalidRequest
from deployments.core.types import Principal
from deployments.gateway.accounts import Canary as Shape
from deployments.gateway.accounts import CanaryPage
from deployments.gateway.bodies import BodyRoute
from deployments.gateway.context import Admin, Context, PageSize, Parts
from deployments.gateway.shapes import gives

router = APIRouter(prefix="/admin/canaries", route_class=BodyRoute)

After = Annotated[str, Query(pattern=r"^[A-Za-z0-9_-]{0,64}$")]


class Weight(BaseModel):
    """The variant's share of the turns, 0..1."""

    model_config = ConfigDict(extra="forbid")

    weight: Share


@router.get("", responses=gives(CanaryPage))
async def canaries(parts: Parts, caller: Admin, after: After = "", limit: PageSize = 100) -> dict[str, Any]:
    """A page of the canaries, the newest first."""
    found = await _canaries(parts, caller).list(after, limit + 1)
    return {"object": "list", "data": [_shape(one) for one in found[:limit]], "has_more": len(found) > limit}


@router.post("", responses=gives(Shape))
async def start(body: Variation, parts: Parts, caller: Admin) -> dict[str, Any]:
    """Begin one; turns are part of it within two seconds."""
    if body.kind == "model" and body.value not in (there := await Models(parts.store, parts.settings, caller.key_id).backends()):
        raise InvalidRequest(f"there is no backend of that name; there are {', '.join(there)}", param="value", code="invalid_value")
    return _shape(await _canaries(parts, caller).start(body))


@router.get("/{canary_id}", responses=gives(Shape))
async def show(canary_id: str, parts: Parts, caller: Admin) -> dict[str, Any]:
    """One canary."""
    return _shape(await _canaries(parts, caller).get(canary_id))


@router.post("/{canary_id}/weight", responses=gives(Shape))
async def weigh(canary_id: str, body: Weight, parts: Parts, caller: Admin) -> dict[str, Any]:
    """Give the variant another share of the turns."""
    return _shape(await _canaries(parts, caller).weigh(canary_id, body.weight))


@router.post("/{canary_id}/promote", responses=gives(Shape))
async def promote(canary_id: str, parts: Parts, caller: Admin) -> dict[str, Any]:
    """Give everybody the variant."""
    return _shape(await _canaries(parts, caller).promote(canary_id))


@router.post("/{canary_id}/stop", responses=gives(Shape))
async def stop(canary_id: str, parts: Parts, caller: Admin) -> dict[str, Any]:
    """Give nobody the variant any more; also ends what was promoted."""
    return _shape(await _canaries(parts, caller).stop(canary_id))


def _canaries(parts: Context, caller: Principal) -> Canaries:
    return Canaries(parts.store, caller.key_id)


def _shape(canary: Canary) -> dict[str, Any]:
    return {"object": "canary", **msgspec.to_builtins(canary)}
