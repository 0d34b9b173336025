"""`headrace top`: how things are now, from `/admin/ops`, again and again."""

import json
import time
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipeline.cli.calls import HERE, Url, connected
from pipeline.cli.client import line

_EVERY_S = 2.0

AdminKey = Annotated[
    str | None, typer.Option("--key", envvar="HEADRACE_ADMIN_KEY", help="Key with scope admin; this machine's by default.")
]
Once = Annotated[bool, typer.Option("--once", help="Look once.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, one look a line.")]


def top(url: Url = HERE, key: AdminKey = None, once: Once = False, as_json: Json = False) -> None:
    """Show stages, first words, tokens, queue and caches until Ctrl-C."""
    console = Console(highlight=False)
    with connected(url, key, "admin") as client:
        seen = client.call("GET", "/admin/ops")
        if as_json or once:
            while True:
                typer.echo(json.dumps(seen)) if as_json else console.print(shown(seen))
                if once:
                    return
                time.sleep(_EVERY_S)
                seen = client.call("GET", "/admin/ops")
        with Live(shown(seen), console=console, screen=console.is_terminal, auto_refresh=False) as live:
            while True:
                time.sleep(_EVERY_S)
                live.update(shown(client.call("GET", "/admin/ops")), refresh=True)


def shown(seen: dict[str, Any]) -> Group:
    """One look as it stands on a terminal, with nothing in it that moves a cursor."""
    stages = Table("stage", "status", "replicas", "wanted", box=None, pad_edge=False)
    for one in seen["stages"] or ():
        colour = "green" if one["running"] >= one["target"] else "yellow"
        stages.add_row(Text(line(one["stage"])), Text(line(one["status"])), Text(str(one["running"]), colour), str(one["target"]))
    return Group(*([stages] if seen["stages"] else [Text("Serve does not say how its stages stand", "yellow")]), Text(_told(seen)))


def _told(seen: dict[str, Any]) -> str:
    queue, answers, now = seen["queue"], seen["answers"], seen["open"]
    gateways = next((one["running"] for one in seen["stages"] or () if one["stage"] == "gateway"), 1)
    caches = [f"{line(one['cache'])} {one['hits']} of {one['looks']}" for one in seen["caches"]]
    return "\n".join(
        (
            f"queue    {queue['running']} run, {queue['waiting']} wait, {queue['limit']:g} slots" if queue else "queue    can not be asked",
            "",
            f"gateway {line(seen['gateway'])}" + (f", one of {gateways}" if gateways > 1 else "") + f", last {seen['window_s']:g} s",
            f"answers  {answers['ended']} ended, {answers['failed']} failed, {answers['tokens_per_s']:g} tokens/s",
            f"first    {answers['first_p50_ms']:g} ms p50, {answers['first_p95_ms']:g} ms p95",
            f"open     {now['answers']} answers, {now['streams']} streams, {now['sockets']} sockets",
            f"caches   {', '.join(caches) or 'not asked'}",
        )
    )
