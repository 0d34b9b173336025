"""`headrace keys`: the API keys of tenants. A key is printed once, when it is made."""

import time
from typing import Annotated

import msgspec
import typer

from deployments.core.keys import SCOPES, Key, is_scope
from deployments.core.limits import Limits
from deployments.core.tenants import LimitTerms
from pipeline.cli.registry import ACTOR, DEFAULT, Config, Json, Registry, checked, limits, models, refusal, show, show_one, within

app = typer.Typer(help="API keys: list, add, rotate, revoke.", no_args_is_help=True)

TenantId = Annotated[str, typer.Argument(help="The tenant's id.")]
KeyId = Annotated[str, typer.Argument(help="The key's id, as `keys list` shows it.")]

_COLUMNS = ("id", "name", "scopes", "expires_at", "revoked")


@app.command("list")
def list_(tenant: TenantId, config: Config = DEFAULT, as_json: Json = False) -> None:
    """The keys of a tenant."""
    show(within(config, lambda registry: registry.keys.list(tenant)), _COLUMNS, as_json)


@app.command()
def add(
    tenant: TenantId,
    scope: Annotated[list[str], typer.Option(help=f"One of {', '.join(SCOPES)}, or tools:… of a tool; may be given several times.")],
    name: Annotated[str, typer.Option(help="What it is for.")] = "",
    days: Annotated[float | None, typer.Option(min=0.001, max=3660, help="Days until it expires; for ever if not given.")] = None,
    limit: Annotated[list[str] | None, typer.Option(help="`requests_per_minute=60` and the like, of this key alone.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="A model it may name.")] = None,
    config: Config = DEFAULT,
    as_json: Json = False,
) -> None:
    """Make a key and print it."""
    if unknown := [one for one in scope if not is_scope(one)]:
        raise refusal(f"there is no scope '{unknown[0]}'; there are {', '.join(SCOPES)}, and tools:… of tools")
    bounds = checked(LimitTerms, **(limits(limit or ()) or {})).model_dump(exclude_none=True)
    named = models(model or ()).get("models")
    ends = int(time.time() + days * 86_400) if days else None
    made = within(
        config,
        lambda registry: registry.keys.mint(
            tenant, sorted(set(scope)), expires_at=ends, name=name, limits=msgspec.convert(bounds, Limits), models=named, actor=ACTOR
        ),
    )
    show_one(made, as_json)


@app.command()
def rotate(
    key: KeyId,
    overlap_s: Annotated[int, typer.Option(min=0, help="Seconds that the old key works beside the new one.")] = 3600,
    config: Config = DEFAULT,
    as_json: Json = False,
) -> None:
    """Make a key that may do the same, and print it; the old one ends when the overlap does."""
    show_one(within(config, lambda registry: registry.keys.rotate(key, overlap_s, actor=ACTOR)), as_json)


@app.command()
def revoke(key: KeyId, config: Config = DEFAULT, as_json: Json = False) -> None:
    """End a key, two seconds from now at the latest."""

    async def end(registry: Registry) -> Key:
        await registry.keys.revoke(key, actor=ACTOR)
        return await registry.keys.get(key)

    show_one(within(config, end), as_json)
