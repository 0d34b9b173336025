"""One way to open the SQL database, whichever engine it is."""

import asyncio
import sqlite3
from typing import Any

import aiosqlite
import asyncpg
from sqlalchemy import Connection, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, TimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from deployments.core.errors import Overloaded

WRITES: dict[str, Any] = {"headrace_writes": True}
"""Execution options of a transaction that writes: SQLite takes its write lock at BEGIN.

A transaction that reads first and asks for the lock later is refused at once, whatever the timeout, when another process has
written in between (https://www.sqlite.org/lang_transaction.html).
"""

INSERTS = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
"""An insert that knows of conflicts, by the name of the engine."""

_BUSY_S = 15
"""How long a SQLite transaction waits for another process to end its own; ours are a few milliseconds long."""


_WAIT_S = 5
"""How long work waits for a connection of its process; then there is more of it than the database can take."""

CONNECTIONS = 10
"""Connections that a process keeps, unless told otherwise; under load it opens as many again."""


def open_engine(url: str, connections: int = CONNECTIONS) -> AsyncEngine:
    """An engine for the URL; SQLite runs in WAL mode, and a commit is on disk when it returns."""
    if ":memory:" in url or url.endswith("://"):
        pool: dict[str, Any] = {}  # one connection is the database
    else:
        pool = {"pool_size": connections, "max_overflow": connections, "pool_timeout": _WAIT_S}
    if not url.startswith("sqlite"):
        return create_async_engine(url, pool_pre_ping=True, **pool)
    engine = create_async_engine(url, connect_args={"timeout": _BUSY_S}, **pool)
    event.listen(engine.sync_engine, "connect", _configure)
    event.listen(engine.sync_engine, "begin", _begin)
    return engine


AWAY = (
    TimeoutError,  # all connections of this process are in use
    OperationalError,
    InterfaceError,
    ConnectionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.PostgresConnectionError,
)
"""What is raised where the database is not there, or has nothing to spare: the same may work in a moment."""


def away(error: BaseException) -> Overloaded | None:
    """What a caller is told of such an error; None for any other."""
    if isinstance(error, AWAY) or (isinstance(error, DBAPIError) and error.connection_invalidated):
        return Overloaded("the database is not available", code="database_unavailable", retry_after_s=1)
    return None


def _configure(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # the driver would begin by itself, late and without the lock: `_begin` does it instead
    connection.run_async(_set_pragmas)


async def _set_pragmas(connection: aiosqlite.Connection) -> None:
    for pragma in ("synchronous=FULL", "foreign_keys=ON"):
        await connection.execute(f"PRAGMA {pragma}")
    async with asyncio.timeout(_BUSY_S):
        # the first switch of a new file to WAL is refused at once, whatever the timeout, while another process makes it
        while not await _in_wal(connection):
            await asyncio.sleep(0.02)


async def _in_wal(connection: aiosqlite.Connection) -> bool:
    try:
        await connection.execute("PRAGMA journal_mode=WAL")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
            return False
        raise
    return True


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("headrace_writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
