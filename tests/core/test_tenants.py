"""Tenants: what an administrator sets, and what is put on record."""

import pytest
from pydantic import ValidationError

from deployments.core.errors import Conflict, NotFound, TenantSuspended
from deployments.core.keys import Keys
from deployments.core.limits import Limits, Policy
from deployments.core.store import Store
from deployments.core.tenants import LimitTerms, Tenants, Terms
from tests.fakes import Clock


@pytest.fixture
def tenants(store: Store) -> Tenants:
    return Tenants(store, "key_admin")


TERMS = Terms(
    name="Acme", limits=LimitTerms(requests_per_minute=60), models=["headrace"], weight=2.5, region="eu", retention_days=30, cache="exact"
)


async def test_a_tenant_is_what_it_was_made_as(tenants: Tenants) -> None:
    made = await tenants.add(TERMS, "acme")
    assert made == await tenants.get("acme")
    assert (made.limits, made.models, made.weight) == (Limits(requests_per_minute=60), {"headrace"}, 2.5)
    assert (made.region, made.retention_days, made.cache, made.suspended_at) == ("eu", 30, "exact", None)


async def test_a_change_leaves_what_it_does_not_name(tenants: Tenants) -> None:
    made = await tenants.add(TERMS, "acme")
    changed = await tenants.update("acme", Terms(weight=4, models=None))
    assert (changed.weight, changed.models) == (4, None)
    assert (changed.name, changed.limits, changed.cache) == (made.name, made.limits, made.cache)


async def test_an_id_is_taken_once(tenants: Tenants) -> None:
    await tenants.add(Terms(), "acme")
    with pytest.raises(Conflict):
        await tenants.add(Terms(), "acme")


@pytest.mark.parametrize("name", ["none", "", "a b", "\0", "x" * 65])
async def test_what_is_not_there_is_not_found(tenants: Tenants, name: str) -> None:
    for act in (tenants.get(name), tenants.suspend(name), tenants.resume(name), tenants.update(name, Terms(weight=2))):
        with pytest.raises(NotFound):
            await act


WRONG = [
    {"weight": 0},
    {"weight": float("nan")},
    {"cache": "all"},
    {"retention_days": 0},
    {"limits": {"rpm": 1}},
    {"limits": {"concurrent": -1}},
]


@pytest.mark.parametrize("fields", [*WRONG, {"suspended_at": 1}, {"key": "x"}, {"region": "E U"}, {"name": "a\nb"}, {"models": ["a b"]}])
def test_terms_of_the_wrong_shape_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Terms.model_validate(fields)


async def test_every_act_is_on_record_with_who_did_it(tenants: Tenants, store: Store) -> None:
    await tenants.add(TERMS, "acme")
    await tenants.update("acme", Terms(weight=4))
    await tenants.suspend("acme")
    await tenants.resume("acme")
    entries = await store.audit.entries()
    assert [entry.act for entry in entries] == ["tenant.created", "tenant.changed", "tenant.suspended", "tenant.resumed"]
    assert {(entry.actor, entry.tenant, entry.subject) for entry in entries} == {("key_admin", "acme", "acme")}
    assert entries[1].detail == {"weight": 4}


async def test_suspension_ends_keys_and_sessions_until_it_is_lifted(tenants: Tenants, store: Store, clock: Clock) -> None:
    keys = Keys(store, b"pepper", cache_s=1)
    await tenants.add(Terms(), "acme")
    secret = (await keys.mint("acme", ["chat"])).secret
    cookie = await keys.open_session(await keys.verify(secret))
    await tenants.suspend("acme")
    clock.forward(1)
    with pytest.raises(TenantSuspended):
        await keys.verify(secret)
    with pytest.raises(TenantSuspended):
        await keys.resume_session(cookie)
    await tenants.resume("acme")
    clock.forward(1)
    assert await keys.verify(secret) == await keys.resume_session(cookie)


async def test_a_policy_is_the_limits_of_tenant_and_key(tenants: Tenants, store: Store) -> None:
    keys = Keys(store, b"pepper")
    await tenants.add(TERMS, "acme")
    made = await keys.mint("acme", ["chat"], limits=Limits(concurrent=3), models=["headrace", "other"])
    principal = await keys.verify(made.secret)
    assert principal.models == {"headrace"}
    assert await keys.policy(principal) == Policy(Limits(requests_per_minute=60), Limits(concurrent=3), 2.5, "exact")
    assert (await keys.tenant(principal)).cache == "exact"
