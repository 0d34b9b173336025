"""SQLite for SQLAlchemy with one turn of the connection's thread a statement.

`aiosqlite` takes four, for a cursor, its execution, its rows and its end, and between two of them the event loop does whatever else there
is: a transaction of ten statements holds SQLite's only write lock through forty of these pauses. Here a cursor is what has come back.
Written against SQLAlchemy 2.1 and aiosqlite 0.22, whose inner names it uses.
"""

import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import aiosqlite
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.aiosqlite import (
    AsyncAdapt_aiosqlite_connection,
    AsyncAdapt_aiosqlite_cursor,
    AsyncAdapt_aiosqlite_dbapi,
    SQLiteDialect_aiosqlite,
)
from sqlalchemy.util.concurrency import await_

DRIVER = "sqlite+headrace"
registry.register("sqlite.headrace", __name__, "Dialect")

Result = tuple[Any, int, int | None, Sequence[Any]]
"""Description, row count, last row id and rows."""


def _one(connection: sqlite3.Connection, statement: str, parameters: Any) -> Result:
    return _read(connection.execute(statement, parameters or ()))


def _many(connection: sqlite3.Connection, statement: str, parameters: Any) -> Result:
    return _read(connection.executemany(statement, parameters))


def _read(cursor: Any) -> Result:
    try:
        rows = cursor.fetchall() if cursor.description else ()
        return cursor.description, cursor.rowcount, cursor.lastrowid, rows
    finally:
        cursor.close()


class Cursor(AsyncAdapt_aiosqlite_cursor):
    """What a statement gave."""

    __slots__ = ("_result",)

    def __init__(self, connection: Any):
        self._adapt_connection, self._connection = connection, connection._connection
        self._result: Result = (None, -1, None, ())
        self._rows = deque()

    @property
    def description(self) -> Any:
        """Of the columns."""
        return self._result[0]

    @property
    def rowcount(self) -> int:
        """Rows that were changed, -1 of a question."""
        return self._result[1]

    @property
    def lastrowid(self) -> Any:
        """Of the row that was inserted last."""
        return self._result[2]

    def close(self) -> None:
        """Forget the rows."""
        self._rows.clear()

    async def _async_soft_close(self) -> None:
        """It is closed already."""

    async def _execute_async(self, operation: Any, parameters: Any) -> None:
        await self._run(_one, operation, parameters)

    async def _executemany_async(self, operation: Any, seq_of_parameters: Any) -> None:
        await self._run(_many, operation, seq_of_parameters)

    async def _run(self, run: Callable[[sqlite3.Connection, str, Any], Result], statement: str, parameters: Any) -> None:
        adapted: Any = self._adapt_connection
        connection: Any = self._connection
        async with adapted._execute_mutex:
            self._result = await connection._execute(partial(run, connection._conn, statement, parameters))
        self._rows = deque(self._result[3])


class Adapted(AsyncAdapt_aiosqlite_connection):
    """A connection with such cursors."""

    __slots__ = ()
    _cursor_cls = Cursor


class Driver(AsyncAdapt_aiosqlite_dbapi):
    """The driver, which makes such connections."""

    def connect(self, *arg: Any, **kw: Any) -> Adapted:
        """Open one."""
        connection = self.aiosqlite.connect(*arg, **kw)
        connection._thread.daemon = True  # a process may end without waiting for it
        return Adapted(self, await_(connection))


class Dialect(SQLiteDialect_aiosqlite):
    """SQLite through it; `DRIVER` in a URL names it."""

    driver = "headrace"
    supports_statement_cache = True

    @classmethod
    def import_dbapi(cls) -> Driver:
        """Load it."""
        return Driver(aiosqlite, sqlite3)
