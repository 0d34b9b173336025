"""GET /v1/models: the models a caller may use."""

from typing import Any

from fastapi import APIRouter

from deployments.core.errors import NoSuchModel
from deployments.core.types import MODELS
from deployments.gateway.bodies import BodyRoute
from deployments.gateway.context import Asker
from deployments.gateway.shapes import Model, Models, gives

router = APIRouter(route_class=BodyRoute)


@router.get("/v1/models", responses=gives(Models))
async def models(caller: Asker) -> dict[str, Any]:
    """All models."""
    return {"object": "list", "data": [_model(name) for name in MODELS]}


@router.get("/v1/models/{name:path}", responses=gives(Model))
async def model(name: str, caller: Asker) -> dict[str, Any]:
    """One model; raises NoSuchModel."""
    if name not in MODELS:
        raise NoSuchModel(f"the model '{name}' does not exist; there are {', '.join(MODELS)}", param="model")
    return _model(name)


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 1_767_225_600, "owned_by": "headrace"}
