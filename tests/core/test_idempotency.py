"""Claims of idempotency keys: one holder at a time, no longer than its lease, and nothing left of what came to nothing."""

import asyncio

import pytest
from sqlalchemy import func, select

from deployments.core.errors import InFlight, KeyReused, NotFound
from deployments.core.idempotency import Begun, Claim, Reply
from deployments.core.responses import Responses, StoredResponse
from deployments.core.store import Store, TenantStore
from deployments.core.tables import AttemptRow
from tests.fakes import Clock

REPLY = Reply(200, ((b"content-type", b"application/json"),), b'{"secret":"canary-7d1"}')
DAY = 24 * 3600.0


async def claim(mine: TenantStore, request: bytes = b"r") -> Claim:
    got = await mine.attempts.claim("n", request, 10, DAY)
    assert isinstance(got, Claim)
    return got


async def found(mine: TenantStore, request: bytes = b"r") -> Claim | Reply | Begun | None:
    return await mine.attempts.claim("n", request, 10, DAY)


async def respond(responses: Responses, name: str, status: str) -> None:
    await responses.add(StoredResponse(name, status, True, 0, None, None, b"{}", b"{}"), ())


async def test_of_many_who_ask_at_once_one_may_answer(acme: TenantStore) -> None:
    got = await asyncio.gather(*(found(acme) for _ in range(20)))
    assert sum(isinstance(one, Claim) for one in got) == 1
    assert got.count(None) == 19


async def test_a_kept_reply_is_what_everybody_gets_for_a_day(acme: TenantStore, clock: Clock) -> None:
    await acme.attempts.keep(await claim(acme), REPLY, DAY)
    clock.forward(DAY - 1)
    assert await found(acme) == REPLY
    clock.forward(2)
    assert isinstance(await found(acme, b"other"), Claim)


async def test_a_kept_reply_is_sealed(acme: TenantStore, store: Store) -> None:
    await acme.attempts.keep(await claim(acme), REPLY, DAY)
    async with store.session() as session:
        sealed = await session.scalar(select(AttemptRow.reply))
    assert sealed
    assert b"canary-7d1" not in sealed


async def test_another_request_with_the_same_name_is_refused_while_the_first_stands(acme: TenantStore) -> None:
    held = await claim(acme)
    with pytest.raises(KeyReused):
        await found(acme, b"other")
    await acme.attempts.keep(held, REPLY, DAY)
    with pytest.raises(KeyReused):
        await found(acme, b"other")


async def test_what_is_given_back_is_free_for_any_request(acme: TenantStore) -> None:
    await acme.attempts.release(await claim(acme))
    await claim(acme, b"other")


async def test_a_holder_that_died_blocks_nobody_longer_than_its_lease(acme: TenantStore, clock: Clock) -> None:
    dead = await claim(acme)
    clock.forward(9)
    assert await found(acme) is None
    await acme.attempts.renew(dead, 10)
    clock.forward(9)
    assert await found(acme) is None
    clock.forward(2)
    heir = await claim(acme)
    await acme.attempts.keep(dead, Reply(200, (), b"late"), DAY)
    with pytest.raises(InFlight):
        await acme.attempts.bind(dead, "resp_late")
    await acme.attempts.release(dead)
    assert await found(acme) is None
    await acme.attempts.keep(heir, REPLY, DAY)
    assert await found(acme) == REPLY


async def test_a_request_is_answered_with_the_response_it_is_bound_to_once_that_is_there(acme: TenantStore, clock: Clock) -> None:
    await acme.attempts.bind(await claim(acme), "resp_1")
    assert await found(acme) is None
    await respond(acme.responses, "resp_1", "in_progress")
    assert await found(acme) == Begun("resp_1")
    clock.forward(60)
    assert await found(acme) == Begun("resp_1")


@pytest.mark.parametrize("status", ["failed", "cancelled"])
async def test_a_response_that_came_to_nothing_is_no_answer(acme: TenantStore, status: str) -> None:
    held = await claim(acme)
    await acme.attempts.bind(held, "resp_1")
    await respond(acme.responses, "resp_1", status)
    await acme.attempts.release(held)
    await claim(acme)


async def test_a_binding_outlasts_a_claim_that_is_given_back(acme: TenantStore) -> None:
    held = await claim(acme)
    await acme.attempts.bind(held, "resp_1")
    await respond(acme.responses, "resp_1", "completed")
    await acme.attempts.release(held)
    assert await found(acme) == Begun("resp_1")


async def test_deleting_a_response_erases_the_reply_that_was_made_of_it(acme: TenantStore, store: Store) -> None:
    held = await claim(acme)
    await acme.attempts.bind(held, "resp_1")
    await respond(acme.responses, "resp_1", "completed")
    await acme.attempts.keep(held, REPLY, DAY)
    await acme.responses.delete("resp_1")
    async with store.session() as session:
        assert await session.scalar(select(func.count()).select_from(AttemptRow)) == 0


async def test_a_name_of_another_tenant_is_not_there(acme: TenantStore, other: TenantStore) -> None:
    await acme.attempts.keep(await claim(acme), REPLY, DAY)
    with pytest.raises(NotFound):
        await found(other)


async def test_expired_rows_go_in_passing(acme: TenantStore, store: Store, clock: Clock) -> None:
    for number in range(5):
        await acme.attempts.claim(f"n{number}", b"r", 10, DAY)
    clock.forward(DAY + 1)
    await acme.attempts.claim("new", b"r", 10, DAY)
    async with store.session() as session:
        assert list(await session.scalars(select(AttemptRow.name))) == ["new"]
