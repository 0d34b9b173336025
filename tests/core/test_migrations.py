"""The migrations make the schema that the models describe."""

import asyncio
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, inspect

from deployments.core.schema import migrate
from deployments.core.sql import open_engine
from deployments.core.tables import Base


def url_in(folder: Path) -> str:
    return f"sqlite+aiosqlite:///{folder / 'headrace.db'}"


@pytest.mark.parametrize("engine_name", ["sqlite", "postgresql"])
async def test_the_migrations_make_what_the_models_describe(tmp_path: Path, engine_name: str, request: pytest.FixtureRequest) -> None:
    url = url_in(tmp_path) if engine_name == "sqlite" else request.getfixturevalue("postgres").empty()
    await migrate(url)

    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        return list(compare_metadata(context, Base.metadata))

    engine = open_engine(url)
    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    await engine.dispose()


async def test_a_second_run_changes_nothing(tmp_path: Path) -> None:
    await migrate(url_in(tmp_path))
    before = (tmp_path / "headrace.db").read_bytes()
    await migrate(url_in(tmp_path))
    assert (tmp_path / "headrace.db").read_bytes() == before


async def test_processes_that_start_together_migrate_once(tmp_path: Path) -> None:
    program = f"import asyncio; from deployments.core.schema import migrate; asyncio.run(migrate({url_in(tmp_path)!r}))"
    started = [await asyncio.create_subprocess_exec(sys.executable, "-c", program) for _ in range(4)]
    assert [await process.wait() for process in started] == [0, 0, 0, 0]
    engine = open_engine(url_in(tmp_path))
    async with engine.connect() as connection:
        names = await connection.run_sync(lambda sync: inspect(sync).get_table_names())
    await engine.dispose()
    assert set(names) == {*Base.metadata.tables, "alembic_version"}
