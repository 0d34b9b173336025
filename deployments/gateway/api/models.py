"""GET /v1/models: the models a caller may use."""

from typing import Any

from fastapi import APIRouter

from deployments.gateway.context import Asker
from deployments.gateway.wire import allowed, known

router = APIRouter()


@router.get("/v1/models")
async def models(caller: Asker) -> dict[str, Any]:
    """The models the caller may name."""
    return {"object": "list", "data": [_model(name) for name in allowed(caller)]}


@router.get("/v1/models/{name:path}")
async def model(name: str, caller: Asker) -> dict[str, Any]:
    """One model; raises NoSuchModel."""
    known(name, caller)
    return _model(name)


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 1_767_225_600, "owned_by": "headrace"}
