"""`headrace models`: the models that callers may name, and the backends that answer for them."""

from typing import Annotated

import typer
import yaml

from deployments.core.models import Model
from pipeline.cli.registry import DEFAULT, Config, Json, checked, limits, refusal, show, within

app = typer.Typer(help="Models: list, show, add, remove.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The model's name.")]
Backend = Annotated[
    list[str] | None,
    typer.Option(help="A configured backend's name, or `{name: big, base_url: https://…/v1, model: m, key: k}`; the first is asked first."),
]
Direct = Annotated[bool, typer.Option("--direct", help="The model alone, without the caller's documents.")]
OnBreak = Annotated[str | None, typer.Option(help="continue, restart or fail, where a backend breaks off.")]
Limit = Annotated[list[str] | None, typer.Option(help="`requests_per_minute=60` or `tokens_per_minute=…`, of one tenant.")]

_COLUMNS = ("name", "retrieves", "backends", "on_break", "limits")


@app.command("list")
def list_(config: Config = DEFAULT, as_json: Json = False) -> None:
    """Every model, the built-in ones first."""
    show([model.shown() for model in within(config, lambda registry: registry.models.all())], _COLUMNS, as_json)


@app.command("show")
def show_(model: Name, config: Config = DEFAULT) -> None:
    """One model, as JSON."""
    show([within(config, lambda registry: registry.models.get(model)).shown()], (), as_json=True)


@app.command()
def add(
    model: Name,
    backend: Backend = None,
    direct: Direct = False,
    on_break: OnBreak = None,
    limit: Limit = None,
    config: Config = DEFAULT,
) -> None:
    """Add a model, or put it in the place of the one of that name, two seconds from now at the latest."""
    backends = [_read(one) for one in backend or ()] or None
    made = checked(Model, name=model, backends=backends, retrieves=not direct, on_break=on_break, limits=limits(limit or ()))
    show([within(config, lambda registry: registry.models.put(made)).shown()], (), as_json=True)


@app.command()
def remove(model: Name, config: Config = DEFAULT) -> None:
    """Remove a model, two seconds from now at the latest."""
    within(config, lambda registry: registry.models.remove(model))


def _read(text: str) -> object:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise refusal(f"--backend is a name, or a mapping in YAML: {text[:100]}") from None
