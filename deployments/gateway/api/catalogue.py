"""/admin/models: the models that callers may name, changed while everything runs."""

from typing import Any

from fastapi import APIRouter

from deployments.core.catalogue import Models
from deployments.core.models import Model
from deployments.core.types import Principal
from deployments.gateway.accounts import LogicalModel, LogicalModels
from deployments.gateway.bodies import BodyRoute
from deployments.gateway.context import Admin, Context, Parts
from deployments.gateway.shapes import Deleted, gives

router = APIRouter(prefix="/admin/models", route_class=BodyRoute)


@router.get("", responses=gives(LogicalModels))
async def models(parts: Parts, caller: Admin) -> dict[str, Any]:
    """Every model, the built-in ones first."""
    return {"object": "list", "data": [_shape(model) for model in await _models(parts, caller).all()]}


@router.post("", responses=gives(LogicalModel))
async def put(body: Model, parts: Parts, caller: Admin) -> dict[str, Any]:
    """Add a model, or put it in the place of the one of that name; every process goes by it within two seconds."""
    return _shape(await _models(parts, caller).put(body))


@router.get("/{name:path}", responses=gives(LogicalModel))
async def retrieve(name: str, parts: Parts, caller: Admin) -> dict[str, Any]:
    """One model."""
    return _shape(await _models(parts, caller).get(name))


@router.delete("/{name:path}", responses=gives(Deleted))
async def remove(name: str, parts: Parts, caller: Admin) -> dict[str, Any]:
    """Remove a model; what is being answered goes on."""
    await _models(parts, caller).remove(name)
    return {"id": name, "object": "logical_model.deleted", "deleted": True}


def _models(parts: Context, caller: Principal) -> Models:
    return Models(parts.store, parts.settings, caller.key_id)


def _shape(model: Model) -> dict[str, Any]:
    return {"object": "logical_model", **model.shown()}
