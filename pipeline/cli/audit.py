"""`headrace audit`: the record of who did what to tenants and keys, and whether anybody touched it."""

from typing import Annotated

import msgspec
import typer

from pipeline.cli.registry import DEFAULT, Config, Json, Registry, refusal, show_one, within

app = typer.Typer(help="The audit record: verify, export.", no_args_is_help=True)

_encode = msgspec.json.Encoder().encode


@app.command()
def verify(
    head: Annotated[str | None, typer.Option(help="A head noted earlier; the record has to contain it.")] = None,
    config: Config = DEFAULT,
    as_json: Json = False,
) -> None:
    """Read the whole record; says where it breaks, and its head, which is worth noting elsewhere."""
    verdict = within(config, lambda registry: registry.store.audit.verify(head))
    show_one(verdict, as_json)
    if verdict.broken is not None:
        raise refusal(f"the record is broken at entry {verdict.broken}: {verdict.reason}")


@app.command()
def export(after: Annotated[int, typer.Option(min=0, help="The last entry that you have.")] = 0, config: Config = DEFAULT) -> None:
    """Print the record, one JSON object a line."""

    async def write(registry: Registry) -> None:
        last = after
        while entries := await registry.store.audit.entries(last):
            for entry in entries:
                typer.echo(_encode(entry))
            last = entries[-1].number

    within(config, write)
