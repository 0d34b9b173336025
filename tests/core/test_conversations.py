"""Conversations in SQL, on both engines."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import numpy as np
import pytest
from sqlalchemy import update

from deployments.core.conversations import Summary
from deployments.core.errors import NotFound
from deployments.core.ids import new_id
from deployments.core.jobs import REMEMBER
from deployments.core.responses import Item
from deployments.core.store import Store, TenantStore
from deployments.core.tables import ConversationRow
from deployments.core.vault import Sealed


def items(count: int) -> list[Item]:
    return [Item(new_id("msg_"), b'{"n":%d}' % n) for n in range(count)]


async def begun(mine: TenantStore, said: Sequence[Item] = ()) -> str:
    return (await mine.conversations.add({}, said)).id


async def test_a_conversation_comes_back_as_it_was_made_and_as_it_was_changed(acme: TenantStore) -> None:
    made = await acme.conversations.add({"topic": "wheels"})
    assert await acme.conversations.get(made.id) == made
    changed = await acme.conversations.update(made.id, {"topic": "water"})
    assert await acme.conversations.get(made.id) == changed
    assert (changed.metadata, changed.created_at) == ({"topic": "water"}, made.created_at)


@pytest.mark.parametrize("newest_first", [False, True])
async def test_items_come_in_pages_in_their_order(acme: TenantStore, newest_first: bool) -> None:
    said = items(7)
    name = await begun(acme, said[:3])
    await acme.conversations.add_items(name, said[3:])
    seen: list[Item] = []
    while page := await acme.conversations.items(name, seen[-1].id if seen else "", 3, newest_first=newest_first):
        assert len(page) <= 3
        seen += page
    assert seen == (said[::-1] if newest_first else said)
    assert await acme.conversations.item(name, said[4].id) == said[4]


async def test_the_place_of_an_item_that_was_taken_out_is_not_used_again(acme: TenantStore) -> None:
    said = items(4)
    name = await begun(acme, said[:3])
    await acme.conversations.delete_item(name, said[2].id)
    await acme.conversations.add_items(name, said[3:])
    assert [(one.position, one.item) for one in await acme.conversations.tail(name, 10)] == [(0, said[0]), (1, said[1]), (3, said[3])]
    with pytest.raises(NotFound):
        await acme.conversations.item(name, said[2].id)


async def test_parts_of_a_conversation_are_read_oldest_first(acme: TenantStore) -> None:
    name = await begun(acme, items(6))
    assert [one.position for one in await acme.conversations.tail(name, 2)] == [4, 5]
    assert [one.position for one in await acme.conversations.between(name, 1, 4)] == [1, 2, 3]
    assert [one.position for one in await acme.conversations.at(name, [5, 0, 9])] == [0, 5]


async def test_a_summary_replaces_the_one_before(acme: TenantStore) -> None:
    name = await begun(acme, items(1))
    assert await acme.conversations.summary(name) is None
    for summary in (Summary("short", 4), Summary("shorter", 9)):
        await acme.conversations.set_summary(name, summary)
        assert await acme.conversations.summary(name) == summary


async def test_vectors_are_kept_beside_their_items_newest_first(acme: TenantStore) -> None:
    name = await begun(acme, items(5))
    vectors = np.arange(12, dtype=np.float32).reshape(3, 4)
    await acme.conversations.set_vectors(name, [3, 0, 1], vectors)
    assert [one.position for one in await acme.conversations.unembedded(name, 10)] == [2, 4]
    positions, found = await acme.conversations.vectors(name, 10, 10, 4)
    assert positions == [3, 1, 0]
    assert np.array_equal(found, vectors[[0, 2, 1]])
    assert (await acme.conversations.vectors(name, 3, 1, 4))[0] == [1]


async def test_vectors_of_another_width_are_passed_over(acme: TenantStore) -> None:
    name = await begun(acme, items(3))
    await acme.conversations.set_vectors(name, [0, 1], np.ones((2, 4), np.float32))
    await acme.conversations.set_vectors(name, [2], np.zeros((1, 1), np.float32))
    assert (await acme.conversations.vectors(name, 10, 10, 4))[0] == [1, 0]
    positions, found = await acme.conversations.vectors(name, 10, 10, 8)
    assert (positions, found.shape) == ([], (0, 8))


async def test_what_is_added_has_the_worker_remember_it(acme: TenantStore, store: Store) -> None:
    name = await begun(acme)
    assert await store.jobs.backlog(REMEMBER) == 0
    await acme.conversations.add_items(name, items(1))
    job = await store.jobs.lease({REMEMBER: 5})
    assert job
    assert (job.tenant, job.subject) == ("acme", name)


async def test_a_deleted_conversation_is_gone_with_its_items_and_its_job(acme: TenantStore, store: Store) -> None:
    said = items(2)
    name = await begun(acme, said)
    await acme.conversations.delete(name)
    assert await store.jobs.backlog() == 0
    for call in (acme.conversations.get(name), acme.conversations.delete(name), acme.responses.item(said[0].id)):
        with pytest.raises(NotFound):
            await call


async def test_who_write_at_once_lose_nothing(acme: TenantStore) -> None:
    name = await begun(acme)
    await asyncio.gather(*(acme.conversations.add_items(name, items(3)) for _ in range(6)))
    assert [one.position for one in await acme.conversations.tail(name, 100)] == list(range(18))


async def test_a_conversation_that_is_deleted_under_its_writers_is_not_found(acme: TenantStore) -> None:
    for _ in range(10):
        said = items(1)
        name = await begun(acme, said)
        ended = await asyncio.gather(
            acme.conversations.add_items(name, items(2)),
            acme.conversations.update(name, {"a": "b"}),
            acme.conversations.delete(name),
            acme.conversations.set_summary(name, Summary("x", 1)),
            acme.conversations.delete_item(name, said[0].id),
            return_exceptions=True,
        )
        assert [error for error in ended if isinstance(error, BaseException) and not isinstance(error, NotFound)] == []
        with pytest.raises(NotFound):
            await acme.conversations.get(name)


Doors = Callable[[TenantStore, str, str], Awaitable[object]]
DOORS: dict[str, Doors] = {
    "get": lambda s, name, _: s.conversations.get(name),
    "update": lambda s, name, _: s.conversations.update(name, {}),
    "delete": lambda s, name, _: s.conversations.delete(name),
    "items": lambda s, name, _: s.conversations.items(name),
    "add_items": lambda s, name, _: s.conversations.add_items(name, items(1)),
    "item": lambda s, name, item: s.conversations.item(name, item),
    "delete_item": lambda s, name, item: s.conversations.delete_item(name, item),
    "tail": lambda s, name, _: s.conversations.tail(name, 5),
    "between": lambda s, name, _: s.conversations.between(name, 0, 5),
    "at": lambda s, name, _: s.conversations.at(name, [0]),
    "summary": lambda s, name, _: s.conversations.summary(name),
    "set_summary": lambda s, name, _: s.conversations.set_summary(name, Summary("x", 1)),
    "unembedded": lambda s, name, _: s.conversations.unembedded(name, 5),
    "set_vectors": lambda s, name, _: s.conversations.set_vectors(name, [0], np.ones((1, 4), np.float32)),
    "vectors": lambda s, name, _: s.conversations.vectors(name, 5, 5, 4),
}


@pytest.mark.parametrize("door", DOORS)
async def test_another_tenants_conversation_is_answered_like_one_that_never_was(acme: TenantStore, other: TenantStore, door: str) -> None:
    said = items(1)
    name = await begun(acme, said)
    messages: list[str] = []
    for asked in (name, new_id("conv_")):
        with pytest.raises(NotFound) as error:
            await DOORS[door](other, asked, said[0].id)
        messages.append(error.value.message.replace(asked, "?"))
    assert messages[0] == messages[1]
    assert await acme.conversations.items(name) == said
    assert await acme.conversations.summary(name) is None


@pytest.mark.parametrize("door", DOORS)
async def test_what_can_be_no_id_is_not_found(acme: TenantStore, door: str) -> None:
    for name in ("", "\x00", "conv_\x00", "x" * 65, "é", "../.."):
        with pytest.raises(NotFound):
            await DOORS[door](acme, name, name)


async def test_an_items_id_that_another_tenant_uses_as_well_opens_ones_own(acme: TenantStore, other: TenantStore) -> None:
    name = new_id("msg_")
    ours = await begun(acme, [Item(name, b"ours")])
    theirs = await begun(other, [Item(name, b"theirs")])
    assert (await acme.conversations.item(ours, name)).body == (await acme.responses.item(name)).body == b"ours"
    assert (await other.conversations.item(theirs, name)).body == (await other.responses.item(name)).body == b"theirs"


async def test_metadata_that_was_put_into_another_conversation_does_not_open(acme: TenantStore, store: Store) -> None:
    one, two = await begun(acme), await begun(acme)
    async with store.write() as session:
        row = await session.get(ConversationRow, one)
        assert row
        await session.execute(update(ConversationRow).where(ConversationRow.id == two).values(labels=row.labels, data_key=row.data_key))
    with pytest.raises(Sealed):
        await acme.conversations.get(two)
