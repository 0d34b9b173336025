"""One way to open the SQL database, whichever engine it is."""

import asyncio
import socket
import sqlite3
from typing import Any

import aiosqlite
import asyncpg
from sqlalchemy import Connection, event, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, TimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from deployments.core.errors import Overloaded
from deployments.core.sqlite import DRIVER

WRITES: dict[str, Any] = {"headrace_writes": True}
"""Execution options of a transaction that writes: SQLite takes its write lock at BEGIN.

A transaction that reads first and asks for the lock later is refused at once, whatever the timeout, when another process has
written in between (https://www.sqlite.org/lang_transaction.html).
"""

INSERTS = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
"""An insert that knows of conflicts, by the name of the engine."""

_BUSY_S = 15
"""How long a SQLite transaction waits for another process to end its own; ours are a few milliseconds long."""


_WAIT_S = 30
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
    engine = create_async_engine(make_url(url).set(drivername=DRIVER), connect_args={"timeout": _BUSY_S}, **pool)
    event.listen(engine.sync_engine, "connect", _configure)
    event.listen(engine.sync_engine, "begin", _begin)
    return engine


_POSTGRES_AWAY = (asyncpg.InsufficientResourcesError, asyncpg.OperatorInterventionError, asyncpg.PostgresConnectionError)
_SQLITE_AWAY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL}

AWAY = (TimeoutError, DBAPIError, ConnectionError, socket.gaierror, *_POSTGRES_AWAY)
"""What is raised where the database is not there, or has no connection to spare; of a DBAPIError `away` says whether it is that."""


def away(error: BaseException) -> Overloaded | None:
    """What a caller is told where the same may work in a moment; None for a fault of ours, such as a table that is not there."""
    if not isinstance(error, AWAY) or (isinstance(error, DBAPIError) and not _passes(error)):
        return None
    return Overloaded("the database is not available", code="database_unavailable", retry_after_s=1)


def _passes(error: DBAPIError) -> bool:
    driver = error.orig
    if isinstance(driver, sqlite3.Error):
        return getattr(driver, "sqlite_errorcode", 0) & 0xFF in _SQLITE_AWAY
    below = getattr(driver, "__cause__", None)  # SQLAlchemy wraps what asyncpg says of a connection that it does not get
    return (
        error.connection_invalidated
        or isinstance(error, InterfaceError | OperationalError)
        or isinstance(below, (*_POSTGRES_AWAY, OSError))
    )


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
