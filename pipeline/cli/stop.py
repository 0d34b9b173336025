"""`headrace stop`: end the instance of a data folder, from another terminal."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pipeline.instance import end
from pipeline.manifest import LAPTOP, Unreadable, load


def stop(config: Annotated[Path, typer.Option(help="The config file it was started with.")] = LAPTOP) -> None:
    """End the running instance and every process it started."""
    console = Console(highlight=False)
    try:
        data_dir = load(config).settings.data_dir
    except Unreadable as error:
        console.print(f"cannot stop: {error}", style="red", markup=False)
        raise typer.Exit(1) from None
    killed = end(data_dir)
    if killed is None:
        console.print(f"nothing runs on {data_dir}")
    else:
        console.print("stopped" + (f"; had to kill {', '.join(sorted(killed))}" if killed else ""))
