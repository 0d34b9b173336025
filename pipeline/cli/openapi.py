"""`headrace openapi`: the OpenAPI document of the API, as JSON."""

import json

import typer

from deployments.core.config import Settings


def openapi() -> None:
    """Print the OpenAPI 3.1 document of the API."""
    from deployments.gateway.app import routed

    typer.echo(json.dumps(routed(Settings()).openapi(), indent=2))
