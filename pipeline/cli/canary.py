"""`headrace canary`: a variant for part of the turns, straight in the database; running processes see it within two seconds."""

from collections.abc import Awaitable, Callable
from typing import Annotated

import typer

from deployments.core.canaries import Canaries, Canary, Variation
from pipeline.cli.registry import ACTOR, DEFAULT, Config, Json, checked, refusal, show, show_one, within

app = typer.Typer(help="Canaries: list, show, start, weight, promote, stop.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(help="The canary's id.")]
Share = Annotated[float, typer.Option("--weight", help="The variant's share of the turns, 0 to 1.")]
Kind = Annotated[str, typer.Argument(help="prompt, model or retrieval.")]
Value = Annotated[str, typer.Argument(help="The variant: a version, a backend's name or a number.")]
Subject = Annotated[str, typer.Option(help="The prompt's id, or the setting of retrieval: limit or context_tokens.")]
Tenant = Annotated[str | None, typer.Option(help="Whose turns; everybody's if none is named.")]

_COLUMNS = ("id", "tenant", "kind", "subject", "value", "weight", "status", "reason", "changed_at")


@app.command("list")
def list_(config: Config = DEFAULT, as_json: Json = False) -> None:
    """The last hundred canaries, the newest first."""
    show(within(config, lambda registry: Canaries(registry.store, ACTOR).list()), _COLUMNS, as_json)


@app.command("show")
def show_(canary: Id, config: Config = DEFAULT, as_json: Json = False) -> None:
    """One canary."""
    _do(config, lambda canaries: canaries.get(canary), as_json)


@app.command()
def start(
    kind: Kind,
    value: Value,
    subject: Subject = "",
    weight: Share = 0.05,
    tenant: Tenant = None,
    config: Config = DEFAULT,
    as_json: Json = False,
) -> None:
    """Begin one."""
    wanted = checked(Variation, kind=kind, value=value, subject=subject, weight=weight, tenant=tenant)
    there = within(config, lambda registry: registry.models.backends())
    if wanted.kind == "model" and wanted.value not in there:
        raise refusal(f"there is no backend of that name; there are {', '.join(there)}")
    _do(config, lambda canaries: canaries.start(wanted), as_json)


@app.command()
def weight(canary: Id, share: Annotated[float, typer.Argument(min=0, max=1)], config: Config = DEFAULT, as_json: Json = False) -> None:
    """Give the variant another share of the turns."""
    _do(config, lambda canaries: canaries.weigh(canary, share), as_json)


@app.command()
def promote(canary: Id, config: Config = DEFAULT, as_json: Json = False) -> None:
    """Give everybody the variant."""
    _do(config, lambda canaries: canaries.promote(canary), as_json)


@app.command()
def stop(canary: Id, config: Config = DEFAULT, as_json: Json = False) -> None:
    """Give nobody the variant any more."""
    _do(config, lambda canaries: canaries.stop(canary), as_json)


def _do(config: Config, act: Callable[[Canaries], Awaitable[Canary]], as_json: bool) -> None:
    show_one(within(config, lambda registry: act(Canaries(registry.store, ACTOR))), as_json)
