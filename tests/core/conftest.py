"""The database of the core's tests, on both engines."""

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from deployments.core.store import Store, TenantStore
from deployments.core.vault import Vault
from tests.conftest import Server, redis_program
from tests.fakes import ROOT, Clock, database, tenant


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite", "postgresql"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> AsyncIterator[Store]:
    if request.param == "sqlite":
        async with database(tmp_path, clock) as store:
            yield store
        return
    store = Store(request.getfixturevalue("postgres").database(), Vault(ROOT), clock)
    yield store
    await store.close()


@pytest.fixture
async def acme(store: Store) -> TenantStore:
    return store.of(await tenant(store, "acme"))


@pytest.fixture
async def other(store: Store) -> TenantStore:
    return store.of(await tenant(store, "other"))


@pytest.fixture(scope="module", params=["valkey", "redis"])
def valkey_server(request: pytest.FixtureRequest, valkey_program: str) -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder), valkey_program if request.param == "valkey" else redis_program())
        server.start()
        yield server
        server.kill()
