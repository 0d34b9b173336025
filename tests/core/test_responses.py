"""Responses in SQL, on both engines."""

import asyncio

import pytest
from sqlalchemy import update

from deployments.core.errors import NotFound
from deployments.core.ids import new_id
from deployments.core.jobs import RESPOND, LeaseLost
from deployments.core.responses import Item, StoredResponse
from deployments.core.store import Store, TenantStore
from deployments.core.tables import ResponseItemRow
from deployments.core.vault import Sealed
from tests.fakes import Clock


def item(text: str) -> Item:
    name = new_id("msg_")
    return Item(name, b'{"id":"%b","text":"%b"}' % (name.encode(), text.encode()))


def response(previous: str | None = None, conversation: str | None = None) -> StoredResponse:
    return StoredResponse(new_id("resp_"), "queued", True, 7, previous, conversation, b"asked", b"body")


async def finished(mine: TenantStore, previous: str | None = None, conversation: str | None = None, text: str = "x") -> str:
    made = response(previous, conversation)
    await mine.responses.add(made, [item(f"in {text}")])
    assert await mine.responses.finish(made.id, "completed", b"done", [item(f"out {text}")])
    return made.id


async def test_a_response_is_kept_with_its_input_and_its_turn_until_it_has_ended(acme: TenantStore) -> None:
    made, inputs = response(), [item(str(n)) for n in range(5)]
    await acme.responses.add(made, inputs, b"turn")
    assert await acme.responses.get(made.id) == made
    assert await acme.responses.turn(made.id) == b"turn"
    assert await acme.responses.inputs(made.id) == inputs
    assert await acme.responses.inputs(made.id, after=inputs[1].id, limit=2) == inputs[2:4]
    assert await acme.responses.inputs(made.id, newest_first=True, limit=1) == inputs[-1:]
    assert await acme.responses.inputs(made.id, after="msg_none") == []
    await acme.responses.begin(made.id, b"begun")
    assert (await acme.responses.get(made.id)).status == "in_progress"
    assert await acme.responses.finish(made.id, "completed", b"done", [item("out")])
    ended = await acme.responses.get(made.id)
    assert (ended.status, ended.body) == ("completed", b"done")
    with pytest.raises(NotFound):
        await acme.responses.turn(made.id)


async def test_what_has_ended_does_not_end_again(acme: TenantStore) -> None:
    name = await finished(acme)
    assert not await acme.responses.finish(name, "failed", b"other", [item("other")])
    await acme.responses.begin(name, b"begun")
    assert (await acme.responses.get(name)).body == b"done"
    assert (await acme.responses.cancel(name))[1] == 0


async def test_a_response_with_a_turn_waits_for_a_worker(acme: TenantStore, store: Store) -> None:
    made = response()
    await acme.responses.add(made, [], b"turn")
    job = await store.jobs.lease({RESPOND: 5})
    assert job
    assert (job.tenant, job.subject, job.fence) == ("acme", made.id, 2)


async def test_a_cancelled_response_takes_what_was_written_of_it_once(acme: TenantStore, store: Store) -> None:
    made = response()
    await acme.responses.add(made, [], b"turn")
    job = await store.jobs.lease({RESPOND: 5})
    assert job
    cancelled, fence = await acme.responses.cancel(made.id)
    assert (cancelled.status, fence) == ("cancelled", job.fence + 1)
    assert not await store.jobs.extend(job, 5)
    assert not await acme.responses.finish(made.id, "completed", b"late", [item("late")])
    assert await acme.responses.finish(made.id, "cancelled", b"partial", [item("part")])
    assert not await acme.responses.finish(made.id, "cancelled", b"again", [item("again")])
    assert (await acme.responses.get(made.id)).body == b"partial"
    assert await acme.responses.cancel(made.id) == (await acme.responses.get(made.id), 0)


async def test_a_worker_that_was_overtaken_keeps_nothing(acme: TenantStore, store: Store, clock: Clock) -> None:
    made = response()
    await acme.responses.add(made, [], b"turn")
    late = await store.jobs.lease({RESPOND: 5})
    clock.forward(5)
    job = await store.jobs.lease({RESPOND: 5})
    assert late
    assert job
    with pytest.raises(LeaseLost):
        await acme.responses.begin(made.id, b"begun late", late)
    with pytest.raises(LeaseLost):
        await acme.responses.finish(made.id, "failed", b"late", [item("late")], late)
    assert await acme.responses.get(made.id) == made
    await acme.responses.begin(made.id, b"begun", job)
    assert await acme.responses.finish(made.id, "completed", b"done", [item("out")], job)
    assert (await acme.responses.get(made.id)).body == b"done"
    assert await store.jobs.extend(job, 5)  # until its log has ended too


async def test_a_response_ends_once_whoever_ends_it_at_the_same_moment(acme: TenantStore) -> None:
    for _ in range(10):
        made = response()
        await acme.responses.add(made, [item("in")], b"turn")
        ended = await asyncio.gather(*(acme.responses.finish(made.id, "completed", b"done", [item("out")]) for _ in range(4)))
        assert sorted(ended) == [False, False, False, True]
        assert len((await acme.responses.chain(made.id, 1))[0]) == 2


async def test_a_response_is_cancelled_or_finished_but_never_both(acme: TenantStore) -> None:
    for _ in range(20):
        made = response()
        await acme.responses.add(made, [], b"turn")
        finish = acme.responses.finish(made.id, "completed", b"done", [item("out")])
        (seen, fence), finished = await asyncio.gather(acme.responses.cancel(made.id), finish)
        assert (seen.status, bool(fence)) == (("completed", False) if finished else ("cancelled", True))
        assert (await acme.responses.get(made.id)).status == seen.status


async def test_a_deleted_response_leaves_no_job(acme: TenantStore, store: Store) -> None:
    made = response()
    await acme.responses.add(made, [item("in")], b"turn")
    await acme.responses.delete(made.id)
    assert await store.jobs.backlog() == 0


async def test_a_chain_is_read_oldest_first_and_no_longer_than_asked(acme: TenantStore) -> None:
    name: str | None = None
    for number in range(5):
        name = await finished(acme, name, text=str(number))
    assert name
    texts = [[one.body.split(b'"')[-2] for one in items] for items in await acme.responses.chain(name, 10)]
    assert texts == [[b"in %d" % n, b"out %d" % n] for n in range(5)]
    assert len(await acme.responses.chain(name, 2)) == 2


async def test_a_chain_ends_where_a_response_was_deleted(acme: TenantStore) -> None:
    first = await finished(acme)
    second = await finished(acme, first)
    await acme.responses.delete(first)
    assert len(await acme.responses.chain(second, 10)) == 1


async def test_a_response_joins_its_conversation(acme: TenantStore) -> None:
    conversation = await acme.conversations.add({}, [item("before")])
    name = await finished(acme, conversation=conversation.id)
    said = await acme.conversations.items(conversation.id, newest_first=False)
    assert [one.body.split(b'"')[-2] for one in said] == [b"before", b"in x", b"out x"]
    await acme.responses.delete(name)
    assert len(await acme.conversations.items(conversation.id)) == 3
    assert await acme.responses.item(said[0].id) == said[0]


async def test_responses_at_once_take_places_of_their_own_in_a_conversation(acme: TenantStore) -> None:
    conversation = await acme.conversations.add({})
    await asyncio.gather(*(finished(acme, conversation=conversation.id, text=str(n)) for n in range(8)))
    placed = await acme.conversations.tail(conversation.id, 100)
    assert [one.position for one in placed] == list(range(16))


async def test_another_tenants_response_is_not_found(acme: TenantStore, other: TenantStore) -> None:
    name = await finished(acme)
    (theirs,) = await acme.responses.inputs(name)
    for call in (
        other.responses.get(name),
        other.responses.turn(name),
        other.responses.inputs(name),
        other.responses.chain(name, 5),
        other.responses.item(theirs.id),
        other.responses.cancel(name),
        other.responses.finish(name, "failed", b"", []),
        other.responses.delete(name),
    ):
        with pytest.raises(NotFound):
            await call
    mine = await finished(other, previous=name)
    assert len(await other.responses.chain(mine, 5)) == 1


async def test_an_item_that_was_put_in_anothers_place_does_not_open(acme: TenantStore, store: Store) -> None:
    one, two = await finished(acme, text="one"), await finished(acme, text="two")
    async with store.write() as session:
        row = await session.get(ResponseItemRow, (one, 0))
        assert row
        await session.execute(update(ResponseItemRow).where(ResponseItemRow.response_id == two).values(body=row.body))
    with pytest.raises(Sealed):
        await acme.responses.inputs(two)
