"""`headrace files`: what was uploaded."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from pipeline.cli.calls import HERE, ApiKey, Url, connected
from pipeline.cli.registry import Json, show, show_one

app = typer.Typer(help="Files: list, add, show, get, delete.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(help="The file's id.")]

_COLUMNS = ("id", "filename", "bytes", "purpose", "created_at", "expires_at")


class File(msgspec.Struct, frozen=True):
    """An uploaded file."""

    id: str
    filename: str
    bytes: int
    purpose: str
    created_at: int
    expires_at: int | None


@app.command("list")
def list_(url: Url = HERE, api_key: ApiKey = None, as_json: Json = False) -> None:
    """Every file of the key's tenant, oldest first."""
    with connected(url, api_key) as client:
        show([msgspec.convert(one, File) for one in client.pages("/v1/files")], _COLUMNS, as_json)


@app.command()
def add(
    path: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A file of this machine.")],
    url: Url = HERE,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Upload a file; `headrace stores fill` puts it into a vector store."""
    with connected(url, api_key) as client:
        made = client.upload(path.name, path.read_bytes())
        show_one(msgspec.convert(client.call("GET", f"/v1/files/{made}"), File), as_json)


@app.command("show")
def show_(file: Id, url: Url = HERE, api_key: ApiKey = None, as_json: Json = False) -> None:
    """One file."""
    with connected(url, api_key) as client:
        show_one(msgspec.convert(client.call("GET", f"/v1/files/{file}"), File), as_json)


@app.command()
def get(
    file: Id,
    path: Annotated[Path, typer.Argument(help="Where to write it; it must not be there.")],
    url: Url = HERE,
    api_key: ApiKey = None,
) -> None:
    """Download a file."""
    with connected(url, api_key) as client:
        content = client.content(file)
    try:
        with path.open("xb") as out:
            out.write(content)
    except FileExistsError:
        raise typer.BadParameter(f"{path} is there already") from None


@app.command()
def delete(file: Id, url: Url = HERE, api_key: ApiKey = None) -> None:
    """Delete a file, wherever it is."""
    with connected(url, api_key) as client:
        client.call("DELETE", f"/v1/files/{file}")
