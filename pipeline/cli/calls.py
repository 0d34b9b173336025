"""What the commands that call headrace over HTTP share: where it is, who asks, and how a refusal ends them."""

import contextlib
from collections.abc import Iterator
from typing import Annotated

import typer

from pipeline.cli.client import URL, Client, Refused, key
from pipeline.cli.registry import refusal

Url = Annotated[str, typer.Option(envvar="HEADRACE_URL", help="Where headrace answers.")]
ApiKey = Annotated[str | None, typer.Option("--key", envvar="HEADRACE_API_KEY", help="API key; the demo tenant's if none is given.")]
HERE = URL


@contextlib.contextmanager
def connected(url: str, api_key: str | None, tenant: str = "demo") -> Iterator[Client]:
    """A client, with the key of that tenant if none is given; what it is refused ends the command."""
    try:
        with Client(url, key(api_key, url, tenant=tenant)) as client:
            yield client
    except Refused as error:
        raise refusal(str(error)) from None
