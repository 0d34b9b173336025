"""GET /v1/models: the models a caller may use."""

from typing import Any

from fastapi import APIRouter

from deployments.gateway.bodies import BodyRoute
from deployments.gateway.context import Asker
from deployments.gateway.shapes import Model, Models, gives
from deployments.gateway.wire import allowed, known

router = APIRouter(route_class=BodyRoute)


@router.get("/v1/models", responses=gives(Models))
async def models(caller: Asker) -> dict[str, Any]:
    """The models the caller may name."""
    return {"object": "list", "data": [_model(name) for name in allowed(caller)]}


@router.get("/v1/models/{name:path}", responses=gives(Model))
async def model(name: str, caller: Asker) -> dict[str, Any]:
    """One model; raises NoSuchModel."""
    known(name, caller)
    return _model(name)


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 1_767_225_600, "owned_by": "headrace"}
