"""A database that is away, or has nothing to spare, is something that a client may try again."""

import contextlib
import socket
import sqlite3
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as NoConnection

from deployments.core.sql import CONNECTIONS, away
from deployments.core.store import Store
from tests.house import House


@contextlib.asynccontextmanager
async def all_taken(store: Store) -> AsyncIterator[None]:
    """Hold every connection that a process may have."""
    store.engine.pool._timeout = 0.5  # type: ignore[attr-defined] - as if it had waited long enough
    async with contextlib.AsyncExitStack() as held:
        for _ in range(2 * CONNECTIONS):
            session = await held.enter_async_context(store.session())
            await session.execute(text("SELECT 1"))
        yield


@pytest.mark.parametrize("path", ["/v1/vector_stores", "/v1/responses/resp_1"])
async def test_no_connection_to_spare_is_a_503_that_says_when_to_come_back(house: House, path: str) -> None:
    async with house.http() as http:
        assert (await http.get("/v1/vector_stores")).status_code == 200  # its key is known from here on
        async with all_taken(house.context.store):
            refused = await http.get(path, timeout=20)
        again = await http.get("/v1/vector_stores")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "database_unavailable")
    assert refused.headers["retry-after"] == "1"
    assert again.status_code == 200


def refused(why: Exception) -> DBAPIError:
    """What SQLAlchemy makes of an error of asyncpg's that comes of a connection."""
    driver = Exception(str(why))
    driver.__cause__ = why
    return DBAPIError("", {}, driver)


def broken(code: int) -> OperationalError:
    """An error of SQLite's."""
    driver = sqlite3.OperationalError("no")
    driver.sqlite_errorcode = code
    return OperationalError("", {}, driver)


@pytest.mark.parametrize(
    "error",
    [
        NoConnection("no"),
        OperationalError("", {}, Exception()),
        ConnectionRefusedError(),
        socket.gaierror("no such host"),
        asyncpg.TooManyConnectionsError("too many clients"),
        refused(asyncpg.TooManyConnectionsError("too many clients")),
        refused(asyncpg.CannotConnectNowError("starting up")),
        refused(ConnectionResetError()),
        broken(sqlite3.SQLITE_BUSY),
        broken(sqlite3.SQLITE_FULL),
        ProgrammingError("", {}, Exception(), connection_invalidated=True),
    ],
)
def test_what_passes_by_itself_is_told_so(error: Exception) -> None:
    told: Any = away(error)
    assert (told.status, told.wire_code, told.retry_after_s) == (503, "database_unavailable", 1)


@pytest.mark.parametrize(
    "error", [IntegrityError("", {}, Exception()), ProgrammingError("", {}, Exception()), broken(sqlite3.SQLITE_ERROR), ValueError()]
)
def test_a_fault_of_ours_is_not(error: Exception) -> None:
    assert away(error) is None


async def test_a_request_with_an_idempotency_key_is_told_so_as_well(house: House) -> None:
    body = {"model": "headrace", "input": "Hi"}
    async with house.http() as http:
        assert (await http.post("/v1/responses", json=body, headers={"idempotency-key": "one"})).status_code == 200
        async with all_taken(house.context.store):
            refused = await http.post("/v1/responses", json=body, headers={"idempotency-key": "two"}, timeout=20)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "database_unavailable")
