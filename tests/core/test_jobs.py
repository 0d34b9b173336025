"""Durable jobs, on both engines."""

import asyncio

import pytest

from deployments.core.jobs import Job, LeaseLost
from deployments.core.store import Store, TenantStore
from tests.fakes import Clock

KINDS = {"read": 10.0, "write": 60.0}


@pytest.fixture(autouse=True)
async def tenants(acme: TenantStore, other: TenantStore) -> None:
    """Jobs belong to tenants that are there."""


async def put(store: Store, subject: str, kind: str = "read", tenant: str = "acme", *, interrupt: bool = True) -> None:
    async with store.write() as session:
        await store.jobs.enqueue(session, tenant, kind, subject, interrupt=interrupt)


async def take(store: Store) -> Job:
    job = await store.jobs.lease(KINDS)
    assert job
    return job


async def finish(store: Store, job: Job, status: str = "done") -> None:
    async with store.jobs.finishing(job, status):
        pass


async def test_the_job_that_was_due_first_is_leased_first_whatever_its_kind(store: Store, clock: Clock) -> None:
    for subject, kind in (("one", "write"), ("two", "read"), ("three", "write")):
        await put(store, subject, kind)
        clock.forward(1)
    assert [(await take(store)).subject for _ in range(3)] == ["one", "two", "three"]


async def test_only_the_kinds_asked_for_are_leased_each_for_its_time(store: Store, clock: Clock) -> None:
    await put(store, "x", "read")
    await put(store, "y", "write")
    assert await store.jobs.lease({"mail": 10}) is None
    assert await store.jobs.lease({}) is None
    first, second = await take(store), await take(store)
    clock.forward(10)
    again = await take(store)
    assert {first.kind, second.kind} == {"read", "write"}
    assert (again.kind, again.attempt, again.fence) == ("read", 2, 3)
    assert await store.jobs.lease(KINDS) is None


async def test_several_are_leased_at_once_of_each_kind_as_many_as_there_is_room_for(store: Store, clock: Clock) -> None:
    for subject, kind in (("1", "read"), ("2", "read"), ("3", "write"), ("4", "read"), ("5", "write")):
        await put(store, subject, kind)
        clock.forward(1)

    async def taken(**room: int) -> list[str]:
        return [job.subject for job in await store.jobs.lease_all({kind: KINDS[kind] for kind in room}, room)]

    assert await taken(read=1, write=3) == ["1", "3"]
    assert await taken(read=1, write=3) == ["2", "5"]
    assert await taken(write=3) == []
    assert await taken(read=2) == ["4"]


async def test_an_enqueued_job_is_part_of_its_callers_transaction(store: Store) -> None:
    async def broken() -> None:
        async with store.write() as session:
            await store.jobs.enqueue(session, "acme", "read", "x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await broken()
    assert await store.jobs.backlog() == 0


async def test_a_job_ends_with_its_effect_or_neither_is_there(store: Store) -> None:
    await put(store, "x")
    job = await take(store)

    async def broken() -> None:
        async with store.jobs.finishing(job) as session:
            await store.jobs.enqueue(session, "acme", "write", "effect")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await broken()
    assert (await store.jobs.backlog("read"), await store.jobs.backlog("write")) == (1, 0)
    async with store.jobs.finishing(job) as session:
        await store.jobs.enqueue(session, "acme", "write", "effect")
    assert (await store.jobs.backlog("read"), await store.jobs.backlog("write")) == (0, 1)


async def test_who_lost_the_lease_has_no_effect(store: Store, clock: Clock) -> None:
    await put(store, "x")
    late = await take(store)
    clock.forward(10)
    job = await take(store)
    with pytest.raises(LeaseLost):
        await finish(store, late)
    assert not await store.jobs.extend(late, 100)
    await store.jobs.release(late)
    assert await store.jobs.lease(KINDS) is None
    await finish(store, job)
    with pytest.raises(LeaseLost):
        await finish(store, job)


async def test_a_lease_that_ran_out_is_still_held_until_somebody_takes_it(store: Store, clock: Clock) -> None:
    await put(store, "x")
    job = await take(store)
    clock.forward(100)
    assert await store.jobs.extend(job, 10)
    assert await store.jobs.lease(KINDS) is None
    await finish(store, job)


async def test_an_attempt_may_be_left_uncounted_but_every_lease_raises_the_fence(store: Store) -> None:
    await put(store, "x")
    first = await take(store)
    await store.jobs.release(first, counted=False)
    second = await take(store)
    await store.jobs.release(second)
    third = await take(store)
    assert [job.attempt for job in (first, second, third)] == [1, 1, 2]
    assert first.fence < second.fence < third.fence


async def test_a_job_that_is_enqueued_again_begins_anew_and_is_lost_to_who_worked_on_it(store: Store) -> None:
    await put(store, "x")
    first = await take(store)
    await put(store, "x")
    second = await take(store)
    assert (second.id, second.attempt) == (first.id, 1)
    assert second.fence > first.fence
    with pytest.raises(LeaseLost):
        await finish(store, first)


async def test_a_job_that_is_not_interrupted_is_done_once_more_afterwards(store: Store) -> None:
    await put(store, "x")
    first = await take(store)
    for _ in range(3):
        await put(store, "x", interrupt=False)
    assert await store.jobs.lease(KINDS) is None
    await finish(store, first)
    second = await take(store)
    assert (second.id, second.attempt) == (first.id, 1)
    await finish(store, second)
    assert await store.jobs.lease(KINDS) is None


@pytest.mark.parametrize("status", ["done", "failed", "cancelled"])
async def test_a_job_that_has_ended_can_be_enqueued_again(store: Store, status: str) -> None:
    await put(store, "x")
    await finish(store, await take(store), status)
    assert await store.jobs.lease(KINDS) is None
    await put(store, "x", interrupt=False)
    assert (await take(store)).attempt == 1


async def test_a_cancelled_job_is_fenced_off_once(store: Store) -> None:
    await put(store, "x")
    job = await take(store)
    async with store.write() as session:
        assert await store.jobs.cancel(session, "other", "read", "x") == 0
        assert await store.jobs.cancel(session, "acme", "read", "y") == 0
        assert await store.jobs.cancel(session, "acme", "read", "x") == job.fence + 1
        assert await store.jobs.cancel(session, "acme", "read", "x") == 0
    assert not await store.jobs.extend(job, 10)
    assert await store.jobs.lease(KINDS) is None


async def test_tenants_and_kinds_have_jobs_of_their_own_for_the_same_subject(store: Store) -> None:
    for kind, tenant in (("read", "acme"), ("write", "acme"), ("read", "other")):
        await put(store, "x", kind, tenant)
    jobs = [await take(store) for _ in range(3)]
    assert {(job.kind, job.tenant) for job in jobs} == {("read", "acme"), ("write", "acme"), ("read", "other")}
    assert {job.principal.tenant for job in jobs} == {"acme", "other"}


async def test_who_enqueue_the_same_job_at_once_get_one(store: Store) -> None:
    for number in range(5):
        await asyncio.gather(*(put(store, f"x{number}") for _ in range(4)))
    assert await store.jobs.backlog() == 5


async def test_what_is_due_and_held_by_nobody_waits_since_it_was_due(store: Store, clock: Clock) -> None:
    assert await store.jobs.waiting() == (0, 0)
    await put(store, "x")
    await put(store, "y", "write")
    clock.forward(3)
    assert await store.jobs.waiting() == (2, 3)
    job = await take(store)
    await store.jobs.release(await take(store), delay_s=60)
    assert await store.jobs.waiting() == (0, 0)
    await finish(store, job)
    clock.forward(61)
    assert await store.jobs.waiting() == (1, 1)
