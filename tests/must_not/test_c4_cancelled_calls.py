"""C4: a call that is cancelled half-way never leaves its reply to the next one on the connection."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from redis.asyncio import Redis
from sqlalchemy import text

from deployments.core.store import Store
from deployments.core.vault import Vault
from tests.conftest import Postgres
from tests.fakes import ROOT, database

Ask = Callable[[int], Awaitable[object]]


async def mismatches(ask: Ask, calls: int, at_once: int = 8) -> tuple[int, int]:
    """Make calls that answer with their own number, cancel about half at a random point; returns how many were cancelled and crossed."""
    chance, cancelled, crossed = random.Random(4), 0, 0

    async def one(number: int) -> None:
        nonlocal cancelled, crossed
        call = asyncio.ensure_future(ask(number))
        if chance.random() < 0.5:
            for _ in range(chance.randrange(12)):
                await asyncio.sleep(0)
            await asyncio.sleep(chance.choice((0, 0, 0.0002, 0.001)))
            call.cancel()
        try:
            crossed += await call != number
        except asyncio.CancelledError:
            cancelled += 1

    for start in range(0, calls, at_once):
        await asyncio.gather(*(one(number) for number in range(start, start + at_once)))
    for number in range(3 * at_once):
        crossed += await ask(number) != number
    return cancelled, crossed


def reading(store: Store) -> Ask:
    async def ask(number: int) -> object:
        async with store.session() as session:
            return await session.scalar(text("SELECT CAST(:number AS INTEGER)"), {"number": number})

    return ask


def writing(store: Store) -> Ask:
    async def ask(number: int) -> object:
        async with store.write() as session:
            await session.execute(text("UPDATE tenants SET name = :name"), {"name": str(number)})
            return await session.scalar(text("SELECT CAST(:number AS INTEGER)"), {"number": number})

    return ask


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path}/headrace.db"
    postgres: Postgres = request.getfixturevalue("postgres")
    return postgres.database()


async def in_valkey(valkey: Redis, calls: int) -> tuple[int, int]:
    async def ask(number: int) -> object:
        async with valkey.pipeline(transaction=False) as pipe:
            pipe.set(f"canary:{number}", number, ex=60)
            pipe.get(f"canary:{number}")
            return int((await pipe.execute())[1])

    return await mismatches(ask, calls)


async def in_sql(url: str, tmp_path: Path, calls: int) -> tuple[int, int]:
    async with database(tmp_path):
        store = Store(url, Vault(ROOT))
        reads, writes = await mismatches(reading(store), calls * 9 // 10), await mismatches(writing(store), calls // 10)
        await store.close()
    return reads[0] + writes[0], reads[1] + writes[1]


async def test_no_reply_of_valkey_reaches_another_call(valkey: Redis, cases: Callable[[int], None]) -> None:
    cases(1000)
    cancelled, crossed = await in_valkey(valkey, 1000)
    assert crossed == 0
    assert cancelled > 100


async def test_no_reply_of_the_database_reaches_another_call(url: str, tmp_path: Path, cases: Callable[[int], None]) -> None:
    cases(1000)
    cancelled, crossed = await in_sql(url, tmp_path, 1000)
    assert crossed == 0
    assert cancelled > 100


@pytest.mark.full
@pytest.mark.timeout(900)
async def test_none_does_however_often(valkey: Redis, url: str, tmp_path: Path) -> None:
    assert (await in_valkey(valkey, 10_000))[1] == 0
    assert (await in_sql(url, tmp_path, 10_000))[1] == 0
