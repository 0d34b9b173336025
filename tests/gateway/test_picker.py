"""Which side of a canary a turn is on."""

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from deployments.core.canaries import Canaries, Variation
from deployments.core.choices import Choice, chosen
from deployments.core.ids import new_id
from deployments.core.store import Store
from deployments.core.types import Message, Principal, Sampling, Turn
from deployments.gateway.picker import Picker
from tests.fakes import database, tenant


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with database(tmp_path) as store:
        yield store


def turn(caller: Principal, conversation_id: str | None = None) -> Turn:
    return Turn(new_id("resp_"), caller, "headrace", (Message("user", "Hi"),), Sampling(), 0, 5, conversation_id=conversation_id)


@pytest.fixture
async def ours(store: Store) -> Principal:
    return await tenant(store, "ours")


async def test_where_nothing_varies_nothing_is_chosen(store: Store, ours: Principal) -> None:
    picker = Picker()
    await picker.refresh(store)
    assert picker.pick(turn(ours)) == ()


async def test_a_conversation_and_a_user_stay_on_one_side_and_a_larger_weight_only_adds(store: Store, ours: Principal) -> None:
    canaries, picker = Canaries(store, "test"), Picker()
    begun = await canaries.start(Variation(kind="retrieval", subject="limit", value="6", weight=0.2))
    sides: list[set[str]] = []
    for weight in (0.2, 0.5):
        await canaries.weigh(begun.id, weight)
        await picker.refresh(store)
        picked = {f"{number}": picker.pick(turn(ours, f"conv_{number}"))[0] for number in range(500)}
        assert picked == {name: picker.pick(turn(ours, f"conv_{name}"))[0] for name in picked}
        users = [[picker.pick(turn(ours), f"user {number}")[0].arm for _ in range(3)] for number in range(50)]
        assert all(len(set(arms)) == 1 for arms in users)
        assert {arm for arms in users for arm in arms} == {"control", "variant"}
        sides.append({name for name, choice in picked.items() if choice.arm == "variant"})
        assert abs(len(sides[-1]) / 500 - weight) < 0.07
    assert sides[0] < sides[1]
    assert {len({picker.pick(turn(ours))[0].arm for _ in range(60)})} == {2}


async def test_the_control_is_as_it_would_be_and_the_variant_is_told_with_its_share(store: Store, ours: Principal) -> None:
    begun = await Canaries(store, "test").start(Variation(kind="model", value="other", weight=0.5))
    picker = Picker()
    await picker.refresh(store)
    picked = [choice for _ in range(60) for choice in picker.pick(turn(ours))]
    sides = {msgspec.structs.replace(choice, session="") for choice in picked}
    assert sides == {Choice("model", "", "", begun.id, "control", 0.5), Choice("model", "", "other", begun.id, "variant", 0.5)}
    assert len({choice.session for choice in picked}) == 60


async def test_what_is_promoted_is_everybodys_and_what_was_stopped_nobodys(store: Store, ours: Principal) -> None:
    canaries, picker = Canaries(store, "test"), Picker()
    begun = await canaries.start(Variation(kind="retrieval", subject="limit", value="6", weight=0.0))
    await canaries.promote(begun.id)
    await picker.refresh(store)
    assert picker.pick(turn(ours)) == (Choice("retrieval", "limit", "6"),)
    await canaries.stop(begun.id)
    await picker.refresh(store)
    assert picker.pick(turn(ours)) == ()


async def test_a_tenants_own_goes_before_everybodys_and_is_nobody_elses(store: Store, ours: Principal) -> None:
    theirs = await tenant(store, "theirs")
    for whose, value in ((None, "6"), ("ours", "8")):
        await Canaries(store, "test").start(Variation(kind="retrieval", subject="limit", value=value, weight=1.0, tenant=whose))
    picker = Picker()
    await picker.refresh(store)
    assert [chosen(picker.pick(turn(one)), "retrieval", "limit") for one in (ours, theirs)] == ["8", "6"]


async def test_a_tenants_version_of_a_built_in_prompt_is_chosen_once_it_is_current(store: Store, ours: Principal) -> None:
    picker = Picker()
    await store.of(ours).prompts.add("grounded", "Answer from the sources.", "test", current=True)
    await store.of(ours).prompts.add("greeting", "Hello", "test")
    await picker.refresh(store)
    assert picker.pick(turn(ours)) == (Choice("prompt", "grounded", "2"),)
    assert picker.pick(turn(await tenant(store, "theirs"))) == ()


async def test_no_more_versions_of_built_in_prompts_are_read_than_the_bound_and_the_log_says_so(
    store: Store, ours: Principal, caplog: pytest.LogCaptureFixture
) -> None:
    picker = Picker(most=1)
    for whose in (ours, await tenant(store, "theirs")):
        await store.of(whose).prompts.add("grounded", "Answer from the sources.", "test", current=True)
        await picker.refresh(store)
    assert [len(picker.pick(turn(Principal(name, "key", frozenset())))) for name in ("ours", "theirs")] == [1, 0]
    assert [record.levelname for record in caplog.records if record.name == "headrace.canary"] == ["ERROR"]
