"""API keys and browser sessions."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text

from deployments.core.errors import Unauthenticated
from deployments.core.keys import Keys
from deployments.core.store import Store
from tests.fakes import Clock, database

CLOCK = Clock()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with database(tmp_path, CLOCK) as store:
        yield store


@pytest.fixture
async def keys(store: Store) -> Keys:
    keys = Keys(store, b"pepper", cache_s=1, session_ttl_s=60)
    await keys.add_tenant("Acme", "acme")
    return keys


async def test_a_key_speaks_for_its_tenant_with_its_scopes(keys: Keys) -> None:
    made = await keys.mint("acme", ["chat"])
    principal = await keys.verify(made.secret)
    assert (principal.tenant, principal.key_id, principal.scopes) == ("acme", made.id, {"chat"})


async def test_a_key_differs_from_every_other_in_its_last_character_too(keys: Keys) -> None:
    made = await keys.mint("acme", ["chat"])
    other = "A" if made.secret[-1] != "A" else "B"
    for wrong in (made.secret[:-1] + other, made.secret[:-1], made.secret + "x", made.secret[:15], made.secret.swapcase(), "", " "):
        with pytest.raises(Unauthenticated):
            await keys.verify(wrong)


async def test_another_pepper_verifies_nothing(keys: Keys, store: Store) -> None:
    made = await keys.mint("acme", ["chat"])
    with pytest.raises(Unauthenticated):
        await Keys(store, b"other").verify(made.secret)


async def test_neither_key_nor_cookie_can_be_read_from_the_database(keys: Keys, store: Store) -> None:
    made = await keys.mint("acme", ["chat"])
    cookie = await keys.open_session(await keys.verify(made.secret))
    async with store.session() as session:
        rows = [*await session.execute(text("SELECT * FROM api_keys")), *await session.execute(text("SELECT * FROM sessions"))]
    stored = repr(rows)
    assert made.secret not in stored
    assert cookie not in stored
    assert made.secret[:15] in stored
    assert made.secret[15:] not in stored


async def test_a_revoked_key_is_refused_once_the_cache_has_passed(keys: Keys) -> None:
    made = await keys.mint("acme", ["chat"])
    await keys.verify(made.secret)
    await keys.revoke(made.id)
    assert await keys.verify(made.secret)
    CLOCK.forward(1)
    with pytest.raises(Unauthenticated):
        await keys.verify(made.secret)


async def test_a_clock_set_back_does_not_keep_a_revoked_key_alive(keys: Keys) -> None:
    made = await keys.mint("acme", ["chat"])
    await keys.verify(made.secret)
    await keys.revoke(made.id)
    CLOCK.forward(-3600)
    with pytest.raises(Unauthenticated):
        await keys.verify(made.secret)
    CLOCK.forward(3600)


async def test_without_a_cache_a_revoked_key_is_refused_at_once(keys: Keys, store: Store) -> None:
    uncached = Keys(store, b"pepper", cache_s=0)
    made = await uncached.mint("acme", ["chat"])
    await uncached.verify(made.secret)
    await uncached.revoke(made.id)
    with pytest.raises(Unauthenticated):
        await uncached.verify(made.secret)


async def test_keys_are_revoked_by_name_and_tenant(keys: Keys) -> None:
    await keys.add_tenant("Other", "other")
    gone = await keys.mint("acme", ["chat"], name="demo")
    kept = await keys.mint("acme", ["chat"], name="mine")
    foreign = await keys.mint("other", ["chat"], name="demo")
    await keys.revoke_named("acme", "demo")
    with pytest.raises(Unauthenticated):
        await keys.verify(gone.secret)
    assert await keys.verify(kept.secret)
    assert await keys.verify(foreign.secret)


async def test_a_key_expires(keys: Keys) -> None:
    made = await keys.mint("acme", ["chat"], expires_at=int(CLOCK()) + 10)
    assert await keys.verify(made.secret)
    CLOCK.forward(10)
    with pytest.raises(Unauthenticated):
        await keys.verify(made.secret)


async def test_a_session_is_the_principal_that_opened_it_until_it_ends(keys: Keys) -> None:
    principal = await keys.verify((await keys.mint("acme", ["chat"])).secret)
    cookie = await keys.open_session(principal)
    assert await keys.resume_session(cookie) == principal
    CLOCK.forward(60)
    with pytest.raises(Unauthenticated):
        await keys.resume_session(cookie)


async def test_a_session_ends_with_its_key(keys: Keys) -> None:
    principal = await keys.verify((await keys.mint("acme", ["chat"])).secret)
    cookie = await keys.open_session(principal)
    await keys.revoke(principal.key_id)
    with pytest.raises(Unauthenticated):
        await keys.resume_session(cookie)


async def test_a_key_is_no_cookie_and_a_cookie_is_no_key(keys: Keys) -> None:
    made = await keys.mint("acme", ["chat"])
    cookie = await keys.open_session(await keys.verify(made.secret))
    with pytest.raises(Unauthenticated):
        await keys.resume_session(made.secret)
    with pytest.raises(Unauthenticated):
        await keys.verify(cookie)


async def test_the_next_session_sweeps_those_that_have_ended(keys: Keys, store: Store) -> None:
    principal = await keys.verify((await keys.mint("acme", ["chat"])).secret)
    await keys.open_session(principal)
    CLOCK.forward(61)
    await keys.open_session(principal)
    async with store.session() as session:
        assert len((await session.execute(text("SELECT 1 FROM sessions"))).all()) == 1


HOSTILE = ["'; DROP TABLE api_keys; --", "hr_' OR '1'='1", "\x00", "hr_\x00abc", "é" * 40, "\ud800", "x" * 10_000, "%s%n", "\r\nX: y"]


@pytest.mark.parametrize("secret", HOSTILE)
async def test_what_can_be_no_key_is_refused_like_a_wrong_one(keys: Keys, secret: str) -> None:
    with pytest.raises(Unauthenticated):
        await keys.verify(secret)
    with pytest.raises(Unauthenticated):
        await keys.resume_session(secret)
