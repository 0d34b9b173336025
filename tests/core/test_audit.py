"""The audit record: whatever is done to its tables is seen."""

import asyncio

import pytest
from sqlalchemy import Executable, delete, text, update

from deployments.core.audit import Verdict
from deployments.core.store import Store
from deployments.core.tables import AuditRow

ACTS = 5


async def filled(store: Store) -> Verdict:
    """A record of a few acts, one with a tenant and one without."""
    for number in range(ACTS):
        async with store.write() as session:
            tenant = "acme" if number % 2 else None
            await store.audit.append(session, "key_1", "tenant.changed", tenant, f"thing-{number}", weight=number, name="Ünï\0")
    verdict = await store.audit.verify()
    assert (verdict.entries, verdict.broken) == (ACTS, None)
    return verdict


async def tampered(store: Store, *statements: str | Executable) -> Verdict:
    async with store.write() as session:
        for statement in statements:
            await session.execute(text(statement) if isinstance(statement, str) else statement)
    return await store.audit.verify()


async def test_an_empty_record_is_whole(store: Store) -> None:
    assert await store.audit.verify() == Verdict(0, "00" * 32)


async def test_entries_are_read_in_order_from_any_place(store: Store) -> None:
    await filled(store)
    entries = await store.audit.entries(after=2, limit=2)
    assert [(entry.number, entry.subject, entry.tenant) for entry in entries] == [(3, "thing-2", None), (4, "thing-3", "acme")]
    assert entries[0].detail == {"weight": 2, "name": "Ünï\0"}
    assert entries[1].previous == entries[0].hash


CHANGES: dict[str, object] = {
    "at": AuditRow.at + 1,
    "actor": "key_2",
    "act": "tenant.created",
    "tenant": "other",
    "subject": "thing-9",
    "detail": '{"weight":9}',
    "previous": AuditRow.hash,
    "hash": AuditRow.previous,
    "number": 99,
}


def test_every_column_is_tried() -> None:
    assert {column.name for column in AuditRow.__table__.columns} == set(CHANGES)


@pytest.mark.parametrize("column", CHANGES)
@pytest.mark.parametrize("number", [1, 3, ACTS])
async def test_a_changed_column_is_found_where_it_was_changed(store: Store, column: str, number: int) -> None:
    await filled(store)
    verdict = await tampered(store, update(AuditRow).where(AuditRow.number == number).values({column: CHANGES[column]}))
    assert verdict.broken == number


async def test_a_null_is_not_an_empty_tenant(store: Store) -> None:
    await filled(store)
    assert (await tampered(store, "UPDATE audit SET tenant = '' WHERE number = 3")).broken == 3


@pytest.mark.parametrize("number", [1, 3, ACTS])
async def test_a_missing_entry_is_missed(store: Store, number: int) -> None:
    await filled(store)
    assert (await tampered(store, delete(AuditRow).where(AuditRow.number == number))).broken == number


async def test_entries_in_another_order_are_seen(store: Store) -> None:
    await filled(store)
    swap = ["UPDATE audit SET number = 50 WHERE number = 2", "UPDATE audit SET number = 2 WHERE number = 3"]
    assert (await tampered(store, *swap, "UPDATE audit SET number = 3 WHERE number = 50")).broken == 2


async def test_a_record_cut_short_is_seen_and_so_is_one_without_its_head(store: Store) -> None:
    await filled(store)
    assert (await tampered(store, "DELETE FROM audit WHERE number > 3")).broken == 4
    assert (await tampered(store, "DELETE FROM audit")).broken == 1
    assert (await tampered(store, "DELETE FROM audit_head")).reason == "the head is missing"


async def test_a_head_moved_back_with_the_cut_is_seen_by_its_mac(store: Store) -> None:
    await filled(store)
    back = "UPDATE audit_head SET number = 3, hash = (SELECT hash FROM audit WHERE number = 3)"
    verdict = await tampered(store, "DELETE FROM audit WHERE number > 3", back)
    assert (verdict.broken, verdict.reason) == (4, "the head was not written by headrace")


async def test_a_whole_database_set_back_is_seen_by_a_head_noted_before(store: Store) -> None:
    early = await filled(store)
    async with store.write() as session:
        await store.audit.append(session, "cli", "tenant.suspended", "acme", "acme")
    late = await store.audit.verify()
    assert (await store.audit.verify(early.head)).broken is None
    assert (await store.audit.verify(late.head)).broken is None
    assert (await store.audit.verify("ab" * 32)).broken == ACTS + 2


async def test_an_act_that_fails_leaves_no_entry(store: Store) -> None:
    await filled(store)

    async def fail() -> None:
        async with store.write() as session:
            await store.audit.append(session, "cli", "tenant.created", "x", "x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert (await store.audit.verify()).entries == ACTS


async def test_writers_at_once_make_one_chain(store: Store) -> None:
    async def write(writer: int) -> None:
        for number in range(5):
            async with store.write() as session:
                await store.audit.append(session, f"key_{writer}", "key.minted", None, f"{writer}-{number}")

    await asyncio.gather(*(write(writer) for writer in range(6)))
    assert await store.audit.verify() == Verdict(30, (await store.audit.entries(29))[0].hash)
    assert len({entry.subject for entry in await store.audit.entries()}) == 30
