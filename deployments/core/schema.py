"""Brings a database to the newest schema; a database that is there already costs one query."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from deployments.core.sql import WRITES, open_engine

_FOLDER = Path(__file__).parent / "migrations"

_LOCK = 0x6865616472616365
"""Name of the PostgreSQL advisory lock: "headrace" in ASCII."""


async def migrate(url: str) -> None:
    """Run the migrations that are missing, in one transaction; of processes that start together one does, the others wait."""
    engine = open_engine(url)
    try:
        async with engine.connect() as connection:
            if await connection.run_sync(_current):
                return
        async with engine.connect() as connection:
            await connection.execution_options(**WRITES)
            async with connection.begin():
                await connection.run_sync(_upgrade)
    finally:
        await engine.dispose()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    return config


def _current(connection: Connection) -> bool:
    head = ScriptDirectory.from_config(_config()).get_current_head()
    return MigrationContext.configure(connection).get_current_revision() == head


def _upgrade(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
