"""`headrace stores`: vector stores, what is in them, and what they find."""

import json
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import typer

from pipeline.cli.calls import HERE, ApiKey, Url, connected
from pipeline.cli.registry import Json, refusal, show, show_one

app = typer.Typer(help="Vector stores: list, add, show, set, delete, fill, files, describe, search.", no_args_is_help=True)

Store = Annotated[str, typer.Argument(help="The vector store, by name or id.")]
FileId = Annotated[str, typer.Argument(help="The file's id.")]
Pairs = Annotated[list[str] | None, typer.Option("--attribute", help="`name=value`; true, false and numbers are taken as such.")]
Metadata = Annotated[list[str] | None, typer.Option(help="`name=value`; those given replace all there were.")]


class VectorStore(msgspec.Struct, frozen=True):
    """A vector store, with how many of its files are in which state."""

    id: str
    name: str
    status: str
    file_counts: dict[str, int]
    usage_bytes: int
    created_at: int
    metadata: dict[str, str]


class Member(msgspec.Struct, frozen=True):
    """A file in a vector store."""

    id: str
    status: str
    attributes: dict[str, str | float | bool]
    created_at: int
    last_error: dict[str, str] | None = None


class Found(msgspec.Struct, frozen=True):
    """A passage that was found."""

    score: float
    filename: str
    text: str
    file_id: str
    attributes: dict[str, str | float | bool]


@app.command("list")
def list_(url: Url = HERE, api_key: ApiKey = None, as_json: Json = False) -> None:
    """Every vector store of the key's tenant, oldest first."""
    with connected(url, api_key) as client:
        stores = [msgspec.convert(one, VectorStore) for one in client.pages("/v1/vector_stores")]
    if not as_json:
        stores = [msgspec.structs.replace(one, file_counts={state: n for state, n in one.file_counts.items() if n}) for one in stores]
    show(stores, ("id", "name", "status", "file_counts", "created_at"), as_json)


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="What people call it.")],
    metadata: Metadata = None,
    url: Url = HERE,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Make a vector store."""
    with connected(url, api_key) as client:
        made = client.call("POST", "/v1/vector_stores", json={"name": name, "metadata": _words(metadata)})
    show_one(msgspec.convert(made, VectorStore), as_json)


@app.command("show")
def show_(store: Store, url: Url = HERE, api_key: ApiKey = None, as_json: Json = False) -> None:
    """One vector store."""
    with connected(url, api_key) as client:
        one = client.call("GET", f"/v1/vector_stores/{client.store(store)[0]}")
    show_one(msgspec.convert(one, VectorStore), as_json)


@app.command("set")
def set_(
    store: Store,
    name: Annotated[str | None, typer.Option(help="What people call it.")] = None,
    metadata: Metadata = None,
    url: Url = HERE,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Change what is given; the rest stays."""
    change = {"name": name} | ({"metadata": _words(metadata)} if metadata else {})
    with connected(url, api_key) as client:
        one = client.call("POST", f"/v1/vector_stores/{client.store(store)[0]}", json=change)
    show_one(msgspec.convert(one, VectorStore), as_json)


@app.command()
def delete(store: Store, url: Url = HERE, api_key: ApiKey = None) -> None:
    """Delete a vector store; its files stay."""
    with connected(url, api_key) as client:
        client.call("DELETE", f"/v1/vector_stores/{client.store(store)[0]}")


@app.command()
def fill(
    store: Store,
    files: Annotated[list[str], typer.Argument(help="Ids of files.")],
    attribute: Pairs = None,
    url: Url = HERE,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Put uploaded files into a vector store, up to 2000 at once; each has an outcome of its own."""
    body = {"file_ids": files, "attributes": _attributes(attribute)}
    with connected(url, api_key) as client:
        store_id, _ = client.store(store)
        made = client.call("POST", f"/v1/vector_stores/{store_id}/file_batches", json=body)
        held = client.pages(f"/v1/vector_stores/{store_id}/file_batches/{made['id']}/files")
        show([msgspec.convert(one, Member) for one in held], ("id", "status", "attributes", "last_error"), as_json)


@app.command()
def files(
    store: Store,
    status: Annotated[str | None, typer.Option(help="in_progress, completed, failed or cancelled.")] = None,
    url: Url = HERE,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """The files of a vector store, and why one has failed."""
    with connected(url, api_key) as client:
        wanted = {"filter": status} if status else {}
        held = [msgspec.convert(one, Member) for one in client.pages(f"/v1/vector_stores/{client.store(store)[0]}/files", **wanted)]
    show(held, ("id", "status", "attributes", "created_at", "last_error"), as_json)


@app.command()
def describe(store: Store, file: FileId, attribute: Pairs = None, url: Url = HERE, api_key: ApiKey = None, as_json: Json = False) -> None:
    """Give a file other attributes, in place of all it had."""
    with connected(url, api_key) as client:
        path = f"/v1/vector_stores/{client.store(store)[0]}/files/{file}"
        show_one(msgspec.convert(client.call("POST", path, json={"attributes": _attributes(attribute)}), Member), as_json)


@app.command()
def search(
    store: Store,
    query: Annotated[str, typer.Argument(help="What to look for.")],
    where: Annotated[str | None, typer.Option(help="""A filter as JSON, such as '{"type":"eq","key":"kind","value":"guide"}'.""")] = None,
    limit: Annotated[int, typer.Option(min=1, max=50, help="Passages at most.")] = 10,
    url: Url = HERE,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """The passages of a vector store that answer a query, best first."""
    try:
        filters = json.loads(where) if where else None
    except ValueError as error:
        raise refusal(f"--where is no JSON: {error}") from None
    with connected(url, api_key) as client:
        asked = {"query": query, "filters": filters, "max_num_results": limit}
        page = client.call("POST", f"/v1/vector_stores/{client.store(store)[0]}/search", json=asked)
    found = [msgspec.convert(one | {"text": one["content"][0]["text"]}, Found) for one in page["data"]]
    show(found, ("score", "filename", "text"), as_json)


def _words(pairs: Sequence[str] | None) -> dict[str, str]:
    return {name: value for name, _, value in (pair.partition("=") for pair in pairs or ())}


def _attributes(pairs: Sequence[str] | None) -> dict[str, Any]:
    return {name: _value(word) for name, word in _words(pairs).items()}


def _value(word: str) -> str | float | bool:
    """A word as the attribute it looks like."""
    try:
        value = json.loads(word)
    except ValueError:
        return word
    return value if isinstance(value, bool | int | float) else word
