"""`headrace tenants`: who may use this installation, and how much."""

from typing import Annotated, Any

import typer

from deployments.core.tenants import Terms
from pipeline.cli.registry import DEFAULT, Config, Json, checked, limits, models, show, show_one, within

app = typer.Typer(help="Tenants: list, add, show, set, suspend, resume.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(help="The tenant's id.")]
Label = Annotated[str | None, typer.Option(help="What people call it.")]
Limit = Annotated[list[str] | None, typer.Option(help="`requests_per_minute=60` and the like; those given replace all there were.")]
Models = Annotated[list[str] | None, typer.Option("--model", help="A model it may name; `any` allows all.")]
Weight = Annotated[float | None, typer.Option(help="Its share while others wait: 2 gets twice as much as 1.")]
Region = Annotated[str | None, typer.Option(help="Where its data has to stay.")]
Retention = Annotated[int | None, typer.Option(help="Days that its content is kept.")]
Threshold = Annotated[float | None, typer.Option(help="Complexity, 0 to 1, from which its questions go to the large tier.")]
CacheMode = Annotated[str | None, typer.Option(help="off, exact or semantic.")]

_COLUMNS = ("id", "name", "suspended_at", "limits", "weight", "cache")


@app.command("list")
def list_(config: Config = DEFAULT, as_json: Json = False) -> None:
    """Every tenant."""
    show(within(config, lambda registry: registry.tenants.list()), _COLUMNS, as_json)


@app.command()
def add(
    tenant: Id,
    name: Label = None,
    limit: Limit = None,
    model: Models = None,
    weight: Weight = None,
    region: Region = None,
    retention_days: Retention = None,
    cache: CacheMode = None,
    threshold: Threshold = None,
    config: Config = DEFAULT,
    as_json: Json = False,
) -> None:
    """Make a tenant."""
    terms = _terms(
        limit, model, name=name or tenant, weight=weight, region=region, retention_days=retention_days, cache=cache, threshold=threshold
    )
    show_one(within(config, lambda registry: registry.tenants.add(terms, tenant)), as_json)


@app.command("show")
def show_(tenant: Id, config: Config = DEFAULT, as_json: Json = False) -> None:
    """One tenant."""
    show_one(within(config, lambda registry: registry.tenants.get(tenant)), as_json)


@app.command("set")
def set_(
    tenant: Id,
    name: Label = None,
    limit: Limit = None,
    model: Models = None,
    weight: Weight = None,
    region: Region = None,
    retention_days: Retention = None,
    cache: CacheMode = None,
    threshold: Threshold = None,
    config: Config = DEFAULT,
    as_json: Json = False,
) -> None:
    """Change what is given; the rest stays."""
    own = {"retention_days": retention_days, "cache": cache, "threshold": threshold}
    terms = _terms(limit, model, name=name, weight=weight, region=region, **own)
    show_one(within(config, lambda registry: registry.tenants.update(tenant, terms)), as_json)


@app.command()
def suspend(tenant: Id, config: Config = DEFAULT, as_json: Json = False) -> None:
    """Refuse everything a tenant asks, two seconds from now at the latest."""
    show_one(within(config, lambda registry: registry.tenants.suspend(tenant)), as_json)


@app.command()
def resume(tenant: Id, config: Config = DEFAULT, as_json: Json = False) -> None:
    """End a suspension."""
    show_one(within(config, lambda registry: registry.tenants.resume(tenant)), as_json)


def _terms(limit: list[str] | None, model: list[str] | None, **fields: Any) -> Terms:
    terms = checked(Terms, limits=limits(limit or ()), **fields)
    return terms.model_copy(update=models(model or ()))
