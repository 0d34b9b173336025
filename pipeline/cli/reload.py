"""`headrace reload`: the edge takes its settings and certificate anew, and no connection is lost."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pipeline.manifest import LAPTOP, Unreadable, load


def reload(config: Annotated[Path, typer.Option(help="The config file it was started with.")] = LAPTOP) -> None:
    """Have the running instance read its certificate and the `node` settings of its file again; the rest needs a restart."""
    from pipeline.instance import renew
    from pipeline.supervisor import RELOAD

    console = Console(highlight=False)
    try:
        data_dir = load(config).settings.data_dir
    except Unreadable as error:
        console.print(f"cannot reload: {error}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(1) from None
    refused = renew(data_dir, RELOAD)
    if refused:
        console.print(f"nothing changed: {refused}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(1)
    console.print("reloaded" if refused is not None else f"nothing runs on {data_dir}")
