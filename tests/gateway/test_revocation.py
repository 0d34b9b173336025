"""Revoked, rotated and suspended while requests run against two gateways that share nothing but the database."""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from httpx2 import AsyncClient
from redis.asyncio import Redis
from websockets.asyncio.client import connect

from deployments.core.config import Settings
from deployments.core.follow import Hub
from deployments.core.keys import Keys
from deployments.core.outbox import Outbox
from deployments.core.refusals import Refusals
from deployments.core.store import Store
from deployments.core.tenants import Tenants
from deployments.core.tokens import Tokens
from deployments.core.vault import Vault
from deployments.gateway.context import Context, Stages
from tests.fakes import ROOT, SCOPES, FakeEmbeds, FakeRetrieves, Idle, OpenGate, Silence, database, until
from tests.house import serving

SOON_S = 2.0
OVERLAP_S = 2
CLIENTS = 2
"""That use each key on each gateway at once."""

Opens = Callable[[], contextlib.AbstractAsyncContextManager[Store]]


@pytest.fixture(params=["sqlite", "postgresql"])
def opens(request: pytest.FixtureRequest, tmp_path: Path) -> Opens:
    """Opens the one database, each time with connections of its own."""
    if request.param == "sqlite":
        return lambda: database(tmp_path, time.time)
    url = request.getfixturevalue("postgres").database()

    @contextlib.asynccontextmanager
    async def open_postgres() -> AsyncIterator[Store]:
        store = Store(url, Vault(ROOT), time.time)
        yield store
        await store.close()

    return open_postgres


@contextlib.asynccontextmanager
async def gateway(opens: Opens, valkey: Redis, folder: Path) -> AsyncIterator[str]:
    settings = Settings(data_dir=folder)
    async with opens() as store:
        keys = Keys(store, b"pepper", settings.gateway.key_cache_s)
        hub, stages = Hub(valkey, settings.log), Stages(FakeEmbeds(), FakeRetrieves(), Idle())
        tokens = Tokens(store, keys, b"pepper", valkey, settings.issuer)
        context = Context(
            settings, store, keys, hub, Outbox(valkey, settings.log), Silence(), stages, OpenGate(store, settings), tokens, Refusals(store)
        )
        async with serving(context) as url:
            yield url


@dataclass
class Used:
    """What became of one key's requests: when each began and ended, and its status."""

    answers: list[tuple[float, float, int]] = field(default_factory=list[tuple[float, float, int]])

    async def use(self, url: str, secret: str, done: asyncio.Event) -> None:
        """Ask again and again, several clients at once."""
        async with AsyncClient(base_url=url, headers={"authorization": f"Bearer {secret}"}) as http:
            await asyncio.gather(*(self._ask(http, done) for _ in range(CLIENTS)))

    async def _ask(self, http: AsyncClient, done: asyncio.Event) -> None:
        while not done.is_set():
            begun = time.time()
            status = (await http.get("/v1/models")).status_code
            self.answers.append((begun, time.time(), status))
            await asyncio.sleep(0.01)

    def last(self) -> float:
        """When the last request began that was accepted."""
        return max(begun for begun, _, status in self.answers if status == 200)

    def refused(self, before: float = float("inf")) -> list[int]:
        return [status for _, ended, status in self.answers if status != 200 and ended < before]


async def close_of(url: str, secret: str) -> tuple[int | None, float]:
    """The code that a socket is closed with, and when."""
    headers = {"authorization": f"Bearer {secret}"}
    async with connect(f"{url.replace('http', 'ws')}/v1/responses", additional_headers=headers, proxy=None) as socket:
        await socket.wait_closed()
        return socket.close_code, time.time()


async def trial(opens: Opens, urls: list[str]) -> dict[str, float]:
    """One key revoked, one rotated, one suspended with its tenant; returns how long each was accepted after."""
    async with opens() as store:
        keys, tenants = Keys(store, b"pepper"), Tenants(store, "test")
        for name in ("acme", "stopped"):
            if not await keys.has_tenant(name):
                await keys.add_tenant(name, name)
        await tenants.resume("stopped")
        revoked, old, stopped = [await keys.mint(name, SCOPES) for name in ("acme", "acme", "stopped")]
        used = {name: Used() for name in ("revoked", "old", "suspended", "new")}
        done = asyncio.Event()

        def start(name: str, secret: str) -> list[asyncio.Task[None]]:
            return [asyncio.create_task(used[name].use(url, secret, done)) for url in urls]

        running = start("revoked", revoked.secret) + start("old", old.secret) + start("suspended", stopped.secret)
        sockets = [asyncio.create_task(close_of(url, secret)) for url in urls for secret in (revoked.secret, stopped.secret)]
        await until(lambda: min(len(used[name].answers) for name in ("revoked", "old", "suspended")) > 20, within_s=30)
        begun = time.time()
        await keys.revoke(revoked.id)
        await tenants.suspend("stopped")
        acted = time.time()
        new = await keys.rotate(old.id, OVERLAP_S)
        ends, rotated = int(acted) + OVERLAP_S, time.time()
        running += start("new", new.secret)
        await asyncio.sleep(OVERLAP_S + SOON_S + 0.5)
        done.set()
        closes = await asyncio.wait_for(asyncio.gather(*sockets), 1)
        await asyncio.gather(*running)

    assert used["new"].refused() == used["old"].refused(before=ends) == []
    assert used["revoked"].refused(before=begun) == used["suspended"].refused(before=begun) == []
    assert set(used["revoked"].refused()) == {401} == set(used["old"].refused())
    assert set(used["suspended"].refused()) == {403}
    assert {code for code, _ in closes} == {1008}
    late = {"socket": max(at for _, at in closes) - acted, "old": used["old"].last() - max(ends, rotated)}
    return late | {"revoked": used["revoked"].last() - acted, "suspended": used["suspended"].last() - acted}


async def trials(count: int, opens: Opens, valkey: Redis, folder: Path) -> None:
    late: dict[str, list[float]] = {"revoked": [], "suspended": [], "old": [], "socket": []}
    async with gateway(opens, valkey, folder) as one, gateway(opens, valkey, folder) as other:
        for _ in range(count):
            for name, seconds in (await trial(opens, [one, other])).items():
                late[name].append(seconds)
    worst = {name: round(max(seconds), 2) for name, seconds in late.items()}
    sys.stdout.write(f"{count} trials on two gateways, {CLIENTS} clients a key and gateway: last accepted use, seconds after: {worst}\n")
    assert max(worst.values()) <= SOON_S


async def test_what_is_ended_ends_within_two_seconds_and_what_overlaps_never_fails(opens: Opens, valkey: Redis, tmp_path: Path) -> None:
    await trials(1, opens, valkey, tmp_path)


@pytest.mark.full
async def test_again_and_again(opens: Opens, valkey: Redis, tmp_path: Path) -> None:
    await trials(20, opens, valkey, tmp_path)
