"""Canaries in SQL."""

from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy import Engine, event

from deployments.core.canaries import MOST_OPEN, Canaries, Canary, Variation, in_force
from deployments.core.errors import Conflict, InvalidRequest, NotFound
from deployments.core.store import Store
from tests.fakes import tenant


@pytest.fixture
async def canaries(store: Store) -> Canaries:
    await tenant(store, "ours")
    return Canaries(store, "key_1")


def limit(**fields: Any) -> Variation:
    return Variation.model_validate({"kind": "retrieval", "subject": "limit", "value": "6"} | fields)


async def open_(store: Store) -> list[Canary]:
    async with store.session() as session:
        return await in_force(session)


async def test_a_canary_is_begun_weighed_and_stopped_and_all_of_it_is_on_record(store: Store, canaries: Canaries) -> None:
    begun = await canaries.start(limit(weight=0.1))
    assert (begun.status, begun.weight, begun.tenant) == ("running", 0.1, None)
    assert (await canaries.weigh(begun.id, 0.5)).weight == 0.5
    assert [one.weight for one in await open_(store)] == [0.5]
    assert (await canaries.stop(begun.id)).status == "stopped"
    assert await open_(store) == []
    acts = [(one.act, one.actor, one.subject) for one in await store.audit.entries()][-3:]
    assert acts == [(f"canary.{act}", "key_1", begun.id) for act in ("started", "weighed", "stopped")]


async def test_of_what_varies_one_canary_is_in_force_at_a_time(canaries: Canaries) -> None:
    begun = await canaries.start(limit())
    with pytest.raises(Conflict):
        await canaries.start(limit(value="8"))
    await canaries.start(limit(tenant="ours"))
    await canaries.stop(begun.id)
    assert (await canaries.start(limit(value="8"))).value == "8"


async def test_what_is_promoted_stays_in_force_until_it_is_stopped(store: Store, canaries: Canaries) -> None:
    begun = await canaries.start(limit())
    await canaries.promote(begun.id)
    assert [one.status for one in await open_(store)] == ["promoted"]
    with pytest.raises(InvalidRequest):
        await canaries.weigh(begun.id, 0.1)
    await canaries.stop(begun.id)
    assert await open_(store) == []
    with pytest.raises(InvalidRequest):
        await canaries.stop(begun.id)


async def test_a_prompt_that_is_promoted_is_the_current_one(store: Store, canaries: Canaries) -> None:
    prompts = store.of_tenant("ours").prompts
    for text in ("One", "Two"):
        await prompts.add("greeting", text, "test")
    begun = await canaries.start(Variation(kind="prompt", subject="greeting", value="2", tenant="ours"))
    assert (await prompts.get("greeting")).template == "One"
    await canaries.promote(begun.id)
    assert (await prompts.get("greeting")).template == "Two"
    assert await open_(store) == []


async def test_a_prompt_is_made_current_under_the_lock_of_its_tenant(store: Store, canaries: Canaries) -> None:
    prompts = store.of_tenant("ours").prompts
    for text in ("One", "Two"):
        await prompts.add("greeting", text, "test")
    begun = await canaries.start(Variation(kind="prompt", subject="greeting", value="2", tenant="ours"))
    locked: list[str] = []

    @event.listens_for(Engine, "before_cursor_execute")
    def note(_: object, cursor: object, statement: str, *rest: object) -> None:
        locked.append(statement)

    try:
        await canaries.promote(begun.id)
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    places = [place for place, statement in enumerate(locked) if statement.startswith("SELECT tenants.id")]
    changes = [place for place, statement in enumerate(locked) if statement.startswith("UPDATE prompts")]
    assert places
    assert places[0] < changes[0]


async def test_a_version_that_needs_other_variables_is_refused(store: Store, canaries: Canaries) -> None:
    for text in ("Hi {{name}}", "Hi {{title}} {{name}}"):
        await store.of_tenant("ours").prompts.add("greeting", text, "test")
    with pytest.raises(InvalidRequest):
        await canaries.start(Variation(kind="prompt", subject="greeting", value="2", tenant="ours"))
    assert await canaries.list() == []


async def test_a_canary_is_rolled_back_once_and_says_why(store: Store, canaries: Canaries) -> None:
    begun = await canaries.start(limit())
    before = len(await store.audit.entries())
    assert [await canaries.roll_back(begun.id, "errors", turns_variant=40) for _ in range(2)] == [True, False]
    shown = await canaries.get(begun.id)
    assert (shown.status, shown.reason) == ("rolled_back", "errors")
    (entry,) = (await store.audit.entries())[before:]
    assert (entry.act, entry.detail) == ("canary.rolled_back", {"reason": "errors", "turns_variant": 40})
    assert await open_(store) == []


async def test_what_was_promoted_or_stopped_is_not_rolled_back(canaries: Canaries) -> None:
    begun = await canaries.start(limit())
    await canaries.promote(begun.id)
    assert not await canaries.roll_back(begun.id, "errors")
    assert (await canaries.get(begun.id)).status == "promoted"


ABSENT = [
    {"tenant": "nobody"},
    {"kind": "prompt", "subject": "greeting", "value": "1", "tenant": "ours"},
    {"kind": "prompt", "subject": "grounded", "value": "2", "tenant": "ours"},
]


@pytest.mark.parametrize("fields", ABSENT, ids=str)
async def test_what_is_not_there_does_not_vary(store: Store, canaries: Canaries, fields: dict[str, Any]) -> None:
    with pytest.raises(NotFound):
        await canaries.start(limit(**fields))
    assert await canaries.list() == []


WRONG = [
    {"subject": "candidates"},
    {"value": "0"},
    {"value": "51"},
    {"value": "six"},
    {"value": "6" * 65},
    {"weight": 1.5},
    {"weight": float("nan")},
    {"kind": "model"},
    {"kind": "prompt", "subject": "grounded", "value": "2"},
    {"kind": "prompt", "subject": "summary", "value": "2", "tenant": "ours"},
    {"kind": "tool"},
    {"more": 1},
]


@pytest.mark.parametrize("fields", WRONG, ids=str)
def test_what_may_not_vary_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        limit(**fields)


async def test_there_are_so_many_at_once_and_no_more(store: Store, canaries: Canaries) -> None:
    for number in range(MOST_OPEN):
        await canaries.start(limit(tenant=(await tenant(store, f"t{number}")).tenant))
    with pytest.raises(InvalidRequest):
        await canaries.start(limit())


async def test_they_are_listed_in_pages_the_newest_first(canaries: Canaries) -> None:
    made = [(await canaries.start(one)).id for one in (limit(), limit(tenant="ours"), Variation(kind="model", value="other"))]
    first = await canaries.list(limit=2)
    rest = await canaries.list(after=first[-1].id, limit=2)
    assert {one.id for one in first} | {one.id for one in rest} == set(made)
    assert len(first) == 2
