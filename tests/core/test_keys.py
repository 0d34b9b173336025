"""API keys and browser sessions."""

from collections.abc import AsyncIterator
from dataclasses import fields
from pathlib import Path

import pytest
from sqlalchemy import event, text

from deployments.core.derived import Derived
from deployments.core.errors import InvalidRequest, Unauthenticated
from deployments.core.keys import Keys
from deployments.core.limits import Limits
from deployments.core.recent import Recent
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


async def test_two_keys_work_while_one_takes_the_place_of_the_other(keys: Keys) -> None:
    old = await keys.mint("acme", ["chat"], name="app", limits=Limits(concurrent=2), models=["headrace"])
    new = await keys.rotate(old.id, overlap_s=60)
    before, after = await keys.verify(old.secret), await keys.verify(new.secret)
    assert (after.tenant, after.scopes, after.models) == (before.tenant, before.scopes, before.models)
    assert await keys.policy(after) == await keys.policy(before)
    CLOCK.forward(59.9)
    assert await keys.verify(old.secret) == before
    CLOCK.forward(0.1)
    with pytest.raises(Unauthenticated):
        await keys.verify(old.secret)
    assert await keys.verify(new.secret) == after


async def test_rotation_prolongs_no_key_and_revives_none(keys: Keys) -> None:
    old = await keys.mint("acme", ["chat"], expires_at=int(CLOCK()) + 10)
    new = await keys.rotate(old.id, overlap_s=60)
    CLOCK.forward(10)
    for secret in (old.secret, new.secret):
        with pytest.raises(Unauthenticated):
            await keys.verify(secret)
    revoked = await keys.mint("acme", ["chat"])
    await keys.revoke(revoked.id)
    for ended in (old.id, revoked.id):
        with pytest.raises(InvalidRequest):
            await keys.rotate(ended, overlap_s=60)


async def test_what_happens_to_keys_is_on_record_without_their_secrets(keys: Keys, store: Store) -> None:
    old = await keys.mint("acme", ["chat"], name="app", actor="key_admin")
    new = await keys.rotate(old.id, 60, actor="key_admin")
    await keys.open_session(await keys.verify(new.secret))
    await keys.revoke(new.id, actor="key_admin")
    entries = await store.audit.entries(after=1)
    acts = [("key.minted", old.id), ("key.rotated", new.id), ("session.opened", new.id), ("key.revoked", new.id)]
    assert [(entry.act, entry.subject) for entry in entries] == acts
    assert entries[1].detail == {"name": "app", "overlap_s": 60, "replaces": old.id}
    recorded = repr(entries)
    assert old.secret[3:] not in recorded
    assert new.secret[3:15] not in recorded


class Counted:
    """How often SQL is asked."""

    def __init__(self, store: Store):
        self.statements = 0
        event.listen(store.engine.sync_engine, "before_cursor_execute", self._count)

    def _count(self, *_: object) -> None:
        self.statements += 1


async def test_a_cached_key_asks_sql_nothing_whatever_else_is_tried(keys: Keys, store: Store) -> None:
    secret = (await keys.mint("acme", ["chat"])).secret
    principal = await keys.verify(secret)
    wrong = [f"hr_{number:040}" for number in range(300)]
    for one in [*wrong, secret[:-1] + "-"]:
        with pytest.raises(Unauthenticated):
            await keys.verify(one)
    counted = Counted(store)
    for _ in range(10):
        assert await keys.verify(secret) == principal
        await keys.policy(principal)
        await keys.tenant(principal)
    assert counted.statements == 0


async def test_a_refused_key_asks_sql_no_more_often_than_a_good_one(keys: Keys, store: Store) -> None:
    made = await keys.mint("acme", ["chat"])
    await keys.revoke(made.id)
    counted = Counted(store)
    for _ in range(10):
        with pytest.raises(Unauthenticated):
            await keys.verify(made.secret)
    assert counted.statements <= 2  # BEGIN and SELECT


def test_a_full_memory_forgets_the_oldest_and_no_more() -> None:
    recent = Recent[int, str](10, CLOCK, bound=3)
    for number in range(4):
        recent.put(number, str(number))
    assert [recent.get(number) for number in range(4)] == [None, "1", "2", "3"]


def test_no_key_of_ours_does_two_jobs() -> None:
    derived, other = Derived(b"pepper"), Derived(b"other")
    every = [getattr(one, field.name) for one in (derived, other) for field in fields(Derived)]
    assert len({*every, b"pepper", b"other"}) == len(every) + 2
    assert all(len(key) == 32 for key in every)
    assert repr(every[0]) not in repr(derived)


HOSTILE = ["'; DROP TABLE api_keys; --", "hr_' OR '1'='1", "\x00", "hr_\x00abc", "é" * 40, "\ud800", "x" * 10_000, "%s%n", "\r\nX: y"]


@pytest.mark.parametrize("secret", HOSTILE)
async def test_what_can_be_no_key_is_refused_like_a_wrong_one(keys: Keys, secret: str) -> None:
    with pytest.raises(Unauthenticated):
        await keys.verify(secret)
    with pytest.raises(Unauthenticated):
        await keys.resume_session(secret)
