"""GET /v1/models: the models a caller may use."""

from typing import Any

from fastapi import APIRouter

from deployments.gateway.bodies import BodyRoute
from deployments.gateway.choosing import chosen
from deployments.gateway.context import Asker, Parts
from deployments.gateway.shapes import Model, Models, gives
from deployments.gateway.wire import allowed

router = APIRouter(route_class=BodyRoute)


@router.get("/v1/models", responses=gives(Models))
async def models(parts: Parts, caller: Asker) -> dict[str, Any]:
    """The models the caller may name."""
    there = await parts.catalogue.all(parts.store)
    return {"object": "list", "data": [_model(name) for name in allowed(caller, tuple(there))]}


@router.get("/v1/models/{name:path}", responses=gives(Model))
async def model(name: str, parts: Parts, caller: Asker) -> dict[str, Any]:
    """One model; raises NoSuchModel."""
    await chosen(parts, caller, name)
    return _model(name)


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 1_767_225_600, "owned_by": "headrace"}
