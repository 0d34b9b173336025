"""What `headrace serve` finds on a new machine, and on an old one."""

import asyncio
import stat
from pathlib import Path

import pytest

from deployments.core.config import Settings
from deployments.core.errors import Unauthenticated
from deployments.core.keys import Keys
from deployments.core.store import open_store
from deployments.core.tenants import Tenants
from deployments.core.types import Principal
from pipeline.setup import ADMIN, DEMO, admin_key, demo_key, prepare


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data")


def verify(settings: Settings, secret: str) -> Principal:
    async def ask() -> Principal:
        store = open_store(settings)
        try:
            return await Keys(store, settings.pepper_bytes()).verify(secret)
        finally:
            await store.close()

    return asyncio.run(ask())


def stores(settings: Settings) -> list[str]:
    async def ask() -> list[str]:
        store = open_store(settings)
        try:
            return [found.name for found in await store.of(Principal(DEMO, "test", frozenset())).stores()]
        finally:
            await store.close()

    return asyncio.run(ask())


def test_a_new_machine_gets_a_tenant_a_store_and_a_private_key(settings: Settings) -> None:
    prepare(settings)
    principal = verify(settings, demo_key(settings).read_text())
    assert (principal.tenant, principal.scopes) == (DEMO, {"chat", "files:read", "files:write"})
    assert stores(settings) == ["default"]


def test_the_administrators_key_may_administer_and_nothing_else(settings: Settings) -> None:
    prepare(settings)
    principal = verify(settings, admin_key(settings).read_text())
    assert (principal.tenant, principal.scopes) == (ADMIN, {"admin"})
    assert stat.S_IMODE(admin_key(settings).stat().st_mode) == 0o600


@pytest.mark.parametrize("name", [DEMO, ADMIN])
def test_a_suspended_tenant_keeps_its_key_over_a_restart(settings: Settings, name: str) -> None:
    prepare(settings)
    before = (settings.data_dir / f"{name}.key").read_text()

    async def act(suspend: bool) -> None:
        store = open_store(settings)
        tenants = Tenants(store, "test")
        await (tenants.suspend(name) if suspend else tenants.resume(name))
        await store.close()

    asyncio.run(act(suspend=True))
    prepare(settings)
    asyncio.run(act(suspend=False))
    assert (settings.data_dir / f"{name}.key").read_text() == before
    assert verify(settings, before).tenant == name


def test_nothing_in_the_data_folder_is_readable_by_others(settings: Settings) -> None:
    prepare(settings)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in settings.data_dir.iterdir()}
    assert modes.keys() >= {"headrace.db", "demo.key", "admin.key", "pepper.key"}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(settings.data_dir.stat().st_mode) == 0o700


def test_a_second_start_changes_nothing(settings: Settings) -> None:
    prepare(settings)
    before = demo_key(settings).read_text(), admin_key(settings).read_text()
    prepare(settings)
    assert (demo_key(settings).read_text(), admin_key(settings).read_text()) == before
    assert stores(settings) == ["default"]


def test_a_deleted_key_file_is_made_anew_and_the_old_key_ends(settings: Settings) -> None:
    prepare(settings)
    old = demo_key(settings).read_text()
    demo_key(settings).unlink()
    prepare(settings)
    assert verify(settings, demo_key(settings).read_text()).tenant == DEMO
    with pytest.raises(Unauthenticated):
        verify(settings, old)


@pytest.mark.parametrize("content", [b"", b"hr_somebody-elses-key", b"\xff\xfe"])
def test_a_key_file_that_opens_nothing_is_replaced(settings: Settings, content: bytes) -> None:
    settings.data_dir.mkdir()
    demo_key(settings).write_bytes(content)
    prepare(settings)
    assert verify(settings, demo_key(settings).read_text()).tenant == DEMO
    assert stat.S_IMODE(demo_key(settings).stat().st_mode) == 0o600


def test_another_pepper_makes_another_key(settings: Settings) -> None:
    prepare(settings)
    (settings.data_dir / "pepper.key").unlink()
    prepare(settings)
    assert verify(settings, demo_key(settings).read_text()).tenant == DEMO
