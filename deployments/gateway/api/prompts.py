"""/admin/tenants/{tenant}/prompts: a tenant's versions of prompts, which are added and never changed."""

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from deployments.core.prompts import Prompt
from deployments.core.template import MAX_TEMPLATE_CHARS
from deployments.core.tenants import Tenants
from deployments.gateway.accounts import Prompt as Shape
from deployments.gateway.accounts import PromptPage
from deployments.gateway.bodies import BodyRoute
from deployments.gateway.context import Admin, Parts
from deployments.gateway.shapes import gives
from deployments.gateway.wire import Words

router = APIRouter(prefix="/admin/tenants/{tenant}/prompts", route_class=BodyRoute)

Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Version = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}$")]


class NewPrompt(BaseModel):
    """A version to add; with `current` it is meant from now on where no version is named."""

    model_config = ConfigDict(extra="forbid")

    id: Id
    template: Annotated[Words, Field(max_length=MAX_TEMPLATE_CHARS)]
    current: bool = False


class Use(BaseModel):
    """The version that is current from now on."""

    model_config = ConfigDict(extra="forbid")

    version: Version


@router.get("", responses=gives(PromptPage))
async def prompts(tenant: str, parts: Parts, caller: Admin) -> dict[str, Any]:
    """Every version of every prompt of a tenant, by name; the built-in ones are not among them."""
    await Tenants(parts.store, caller.key_id).get(tenant)
    return {"object": "list", "data": [_shape(one) for one in await parts.store.of_tenant(tenant).prompts.list()]}


@router.post("", responses=gives(Shape))
async def add(tenant: str, body: NewPrompt, parts: Parts, caller: Admin) -> dict[str, Any]:
    """Add the next version of a prompt; the first of a name is current."""
    added = await parts.store.of_tenant(tenant).prompts.add(body.id, body.template, caller.key_id, current=body.current)
    return _shape(added)


@router.get("/{prompt_id}", responses=gives(Shape))
async def show(tenant: str, prompt_id: str, parts: Parts, caller: Admin, version: Version | None = None) -> dict[str, Any]:
    """A version of a prompt, the current one where none is named."""
    return _shape(await parts.store.of_tenant(tenant).prompts.get(prompt_id, version))


@router.post("/{prompt_id}/use", responses=gives(PromptPage))
async def use(tenant: str, prompt_id: str, body: Use, parts: Parts, caller: Admin) -> dict[str, Any]:
    """Make a version the current one; answers with all versions of that prompt."""
    registry = parts.store.of_tenant(tenant).prompts
    await registry.use(prompt_id, body.version, caller.key_id)
    return {"object": "list", "data": [_shape(one) for one in await registry.list() if one.id == prompt_id]}


def _shape(prompt: Prompt) -> dict[str, Any]:
    return {"object": "prompt", **msgspec.to_builtins(prompt)}
