"""`headrace prompts`: the texts that models are told to go by, version by version."""

from typing import Annotated

import typer

from deployments.core.prompts import SEED, Prompt
from deployments.core.template import MAX_TEMPLATE_CHARS
from pipeline.cli.registry import ACTOR, DEFAULT, Config, Json, Registry, refusal, show, show_one, within
from pipeline.prompts.seeds import SEEDS

app = typer.Typer(help="Prompts of a tenant: list, show, add, use.", no_args_is_help=True)

Tenant = Annotated[str, typer.Argument(help="Whose prompts.")]
Name = Annotated[str, typer.Argument(help="The prompt's id.")]
Version = Annotated[str | None, typer.Option(help="One of its versions; the current one if none is named.")]
File = Annotated[typer.FileText, typer.Argument(help="The template; `-` reads standard input.")]
Current = Annotated[bool, typer.Option("--current", help="Use it from now on where no version is named.")]

_COLUMNS = ("id", "version", "current", "variables", "created_at")


@app.command("list")
def list_(tenant: Tenant, config: Config = DEFAULT, as_json: Json = False) -> None:
    """Every version of every prompt, the built-in ones included."""
    show(within(config, lambda registry: _all(registry, tenant)), _COLUMNS, as_json)


@app.command("show")
def show_(tenant: Tenant, prompt: Name, version: Version = None, config: Config = DEFAULT, as_json: Json = False) -> None:
    """One version with its text."""
    found = within(config, lambda registry: _all(registry, tenant))
    wanted = [one for one in found if one.id == prompt and (one.current if version is None else one.version == version)]
    if not wanted:
        raise refusal(f"no prompt '{prompt}'" + (f" of version {version}" if version else ""))
    show_one(wanted[0], as_json)


@app.command()
def add(tenant: Tenant, prompt: Name, file: File, current: Current = False, config: Config = DEFAULT, as_json: Json = False) -> None:
    """Add the next version of a prompt; versions never change."""
    text = file.read(MAX_TEMPLATE_CHARS + 1)
    show_one(within(config, lambda one: one.store.of_tenant(tenant).prompts.add(prompt, text, ACTOR, current=current)), as_json)


@app.command()
def use(tenant: Tenant, prompt: Name, version: Annotated[str, typer.Argument()], config: Config = DEFAULT) -> None:
    """Make a version the current one; 1 of a built-in prompt is that of the file."""
    within(config, lambda registry: registry.store.of_tenant(tenant).prompts.use(prompt, version, ACTOR))


async def _all(registry: Registry, tenant: str) -> list[Prompt]:
    await registry.tenants.get(tenant)
    own = await registry.store.of_tenant(tenant).prompts.list()
    taken = {one.id for one in own if one.current}
    return [*(Prompt(name, str(SEED), text, (), name not in taken, 0) for name, text in SEEDS.items()), *own]
