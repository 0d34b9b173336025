"""SQLite with one turn of its thread a statement."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from unittest.mock import patch

import aiosqlite
import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine

from deployments.core.sql import open_engine
from tests.fakes import database


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    engine = open_engine(f"sqlite+aiosqlite:///{tmp_path}/some.db")
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE mills (id INTEGER PRIMARY KEY, name TEXT UNIQUE)"))
    yield engine
    await engine.dispose()


async def run(engine: AsyncEngine, *statements: str) -> None:
    """Run them in one transaction."""
    async with engine.begin() as connection:
        for statement in statements:
            await connection.execute(text(statement))


async def test_a_statement_takes_one_turn(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("INSERT INTO mills (name) VALUES ('upper')"))
        with patch.object(aiosqlite.Connection, "_execute", autospec=True, side_effect=aiosqlite.Connection._execute) as turns:
            rows = (await connection.execute(text("SELECT id, name FROM mills"))).all()
    assert rows == [(1, "upper")]
    assert turns.call_count == 1


async def test_a_result_says_its_columns_its_rows_and_how_many_were_changed(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        names = [{"name": name} for name in ("upper", "lower", "middle")]
        assert (await connection.execute(text("INSERT INTO mills (name) VALUES (:name)"), names)).rowcount == 3
        added = await connection.execute(text("INSERT INTO mills (name) VALUES ('new')"))
        assert (added.lastrowid, added.returns_rows) == (4, False)
        assert (await connection.execute(text("UPDATE mills SET name = name || '!' WHERE id < 3"))).rowcount == 2
        found = await connection.execute(text("SELECT name, id FROM mills ORDER BY id"))
        assert list(found.keys()) == ["name", "id"]
        assert [row.name for row in found] == ["upper!", "lower!", "middle", "new"]
        assert (await connection.execute(text("SELECT id FROM mills WHERE id = 9"))).all() == []


async def test_what_is_wrong_is_raised_as_ever_and_the_connection_goes_on(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("INSERT INTO mills (name) VALUES ('upper')"))
    with pytest.raises(IntegrityError):
        await run(engine, "INSERT INTO mills (name) VALUES ('lower')", "INSERT INTO mills (name) VALUES ('upper')")
    with pytest.raises(OperationalError, match="no such table"):
        await run(engine, "SELECT * FROM wheels")
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM mills")) == 1


async def test_writers_are_served_in_the_order_in_which_they_came(tmp_path: Path) -> None:
    came = list[int]()
    async with database(tmp_path) as store:

        async def write(number: int) -> None:
            async with store.write() as session:
                await session.execute(text("SELECT 1"))
                came.append(number)

        await asyncio.gather(*(write(number) for number in range(60)))
    assert came == list(range(60))
