"""`headrace usage`: what every attempt at a model call came to, and what it cost."""

from typing import Annotated

import typer

from deployments.core.ledger import DIMENSIONS, Dimension, Ledger
from deployments.core.sheet import sheet
from pipeline.cli.registry import DEFAULT, Config, Json, refusal, show, within

By = Annotated[list[str], typer.Option("--by", help=f"What to take sums by; may be given again. One of {', '.join(DIMENSIONS)}.")]
Days = Annotated[int, typer.Option(min=1, max=366, help="So many days back, today included.")]
Tenant = Annotated[str | None, typer.Option(help="This tenant only.")]
Csv = Annotated[bool, typer.Option("--csv", help="Print CSV, for a spreadsheet.")]

_USUAL = ["day", "tenant", "model"]
_LIMIT = 100_000


def usage(
    by: By = _USUAL, days: Days = 31, tenant: Tenant = None, as_csv: Csv = False, config: Config = DEFAULT, as_json: Json = False
) -> None:
    """Attempts at model calls, tokens and cost of the last days."""
    if unknown := [name for name in by if name not in DIMENSIONS]:
        raise refusal(f"there is no {unknown[0]!r} to take sums by; there are {', '.join(DIMENSIONS)}")
    dimensions: list[Dimension] = [name for name in DIMENSIONS if name in by]
    entries = within(config, lambda registry: Ledger(registry.store).sums(dimensions, days, _LIMIT, tenant))
    if as_csv:
        typer.echo(sheet(dimensions, entries), nl=False)
    else:
        show(entries, (*dimensions, "attempts", "prompt_tokens", "completion_tokens", "cost"), as_json)
