"""Tenants, keys and the audit record straight in the configured database: what administers an installation that does not run."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import typer
from pydantic import BaseModel, ValidationError
from rich.console import Console
from rich.table import Table
from rich.text import Text
from sqlalchemy.exc import SQLAlchemyError

from deployments.core.catalogue import Models
from deployments.core.config import Settings
from deployments.core.errors import HeadraceError
from deployments.core.keys import Keys
from deployments.core.schema import migrate
from deployments.core.store import Store, open_store
from deployments.core.tenants import Tenants
from pipeline.cli.client import line
from pipeline.manifest import LAPTOP, Unreadable, load

ACTOR = "cli"
"""How the record names who used the command line."""

Result = TypeVar("Result")
Model = TypeVar("Model", bound=BaseModel)

Config = Annotated[Path, typer.Option(help="The config file it is started with.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
DEFAULT = LAPTOP


@dataclass(frozen=True)
class Registry:
    """What the commands work with."""

    store: Store
    keys: Keys
    tenants: Tenants
    models: Models


def within(config: Path, work: Callable[[Registry], Awaitable[Result]]) -> Result:
    """Do something in the database of a config file, which is made if it is not there; what goes wrong ends the command."""
    try:
        return asyncio.run(_within(config, work))
    except (Unreadable, HeadraceError, SQLAlchemyError, OSError) as error:
        raise refusal(str(error)) from None


def settings_of(config: Path) -> Settings:
    """The settings of a config file; what is wrong with it ends the command."""
    try:
        return load(config).settings
    except Unreadable as error:
        raise refusal(str(error)) from None


async def _within(config: Path, work: Callable[[Registry], Awaitable[Result]]) -> Result:
    settings = load(config).settings
    if settings.sql_url is None:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        (settings.data_dir / "headrace.db").touch(mode=0o600)
    await migrate(settings.database_url)
    store = open_store(settings)
    try:
        keys = Keys(store, settings.pepper_bytes())
        return await work(Registry(store, keys, Tenants(store, ACTOR), Models(store, settings, ACTOR)))
    finally:
        await store.close()


def refusal(message: str) -> typer.Exit:
    """Says what is wrong; to be raised."""
    Console(stderr=True).print(Text(line(message), "red"), soft_wrap=True)
    return typer.Exit(1)


def checked(model: type[Model], **fields: Any) -> Model:
    """A model of what was given on the command line, without what was not; what is wrong with it ends the command."""
    try:
        return model.model_validate({name: value for name, value in fields.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        raise refusal(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def limits(words: Sequence[str]) -> dict[str, str] | None:
    """`NAME=NUMBER` words as limits; None where there are none."""
    parts = [word.partition("=") for word in words]
    return {name: number for name, _, number in parts} or None


def models(names: Sequence[str]) -> dict[str, list[str] | None]:
    """The models of the options as a field, if any were given; `any` lifts the restriction."""
    return {"models": None if "any" in names else list(names)} if names else {}


def show(records: Sequence[msgspec.Struct | dict[str, Any]], columns: Sequence[str], as_json: bool) -> None:
    """Print records as a table of some of their fields, or as JSON, one record a line."""
    rows: list[dict[str, Any]] = [msgspec.to_builtins(record) for record in records]
    console = Console(highlight=False)
    if as_json:
        for row in rows:
            console.out(json.dumps(row))
        return
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold", no_wrap=column == "id")
    for row in rows:
        table.add_row(*(Text(_cell(column, row[column])) for column in columns))
    console.print(table)


def show_one(record: msgspec.Struct, as_json: bool) -> None:
    """Print one record, a field a line, so that nothing of it is cut; or as JSON."""
    if as_json:
        show([record], (), as_json=True)
        return
    console = Console(highlight=False)
    for name, value in msgspec.to_builtins(record).items():
        console.print(Text(f"{name.replace('_', ' '):<16} {_cell(name, value)}"), soft_wrap=True)


def _cell(name: str, value: object) -> str:
    if name.endswith("_at") and isinstance(value, int):
        return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M:%S")
    if value is None or value in ({}, []):
        return "–"
    if isinstance(value, dict):
        return ", ".join(f"{name}={one}" for name, one in value.items())
    if isinstance(value, list):
        return ", ".join(str(one["name"] if isinstance(one, dict) else one) for one in value)
    return line(str(value))
