"""Canaries on a running gateway: a variant that does worse is rolled back while it answers."""

from pathlib import Path
from random import Random

import msgspec
from openai import AsyncOpenAI
from pydantic import SecretStr
from redis.asyncio import Redis

from deployments.core.canaries import MOST_OPEN, Canaries, Canary, Variation
from deployments.core.choices import Arm, Choice, arms
from deployments.core.config import Log, Settings
from deployments.core.errors import BackendFailed
from deployments.core.evidence import ENOUGH, Evidence, Tally, together
from deployments.core.follow import Tape
from deployments.core.log import Writer
from deployments.core.outbox import Outbox
from deployments.core.run import Run
from deployments.core.types import LogRef, Message, Outcome, Principal, Sampling, Turn, Usage
from deployments.core.valkey import connect
from pipeline.compared import Compared
from tests.fakes import database, until
from tests.house import House

OURS = Principal("ours", "key", frozenset())


class Failing:
    """A flow that answers everybody but the variant."""

    async def answer(self, turn: Turn, run: Run) -> None:
        writer = run.writer
        writer.end(writer.failed(BackendFailed("broken")) if varied(turn) else writer.finished(Outcome(0, "stop", Usage())))


async def begin(house: House, weight: float) -> Canary:
    """A canary that is in force."""
    begun = await Canaries(house.context.store, "test").start(Variation(kind="model", value="primary", weight=weight))
    await house.context.picker.refresh(house.context.store)
    return begun


def varied(turn: Turn) -> bool:
    return "variant" in arms(turn.choices).values()


async def ask(client: AsyncOpenAI, user: str | None = None) -> bool:
    """Whether a question is answered well."""
    body = {"user": user} if user else None
    return (await client.responses.create(model="headrace-direct", input="Hi", store=False, extra_body=body)).status == "completed"


async def status(house: House, canary: Canary) -> str:
    return (await Canaries(house.context.store, "test").get(canary.id)).status


async def test_a_variant_that_fails_is_rolled_back_while_it_answers(house: House) -> None:
    canary, client = await begin(house, 0.3), house.openai()
    house.flow.fails = varied
    asked = 0
    while await status(house, canary) == "running":
        await ask(client)
        asked += 1
        assert asked < 300
    seen = [turn for turn in house.flow.turns if varied(turn)]
    assert len(seen) < 200
    entry = (await house.context.store.audit.entries())[-1]
    assert (entry.act, entry.actor, entry.subject, entry.detail["reason"]) == ("canary.rolled_back", "canary", canary.id, "errors")
    assert entry.detail["errors_variant"] >= 4
    assert entry.detail["errors_control"] == 0
    await until(lambda: house.context.picker.pick(seen[-1]), equals=(), within_s=2)
    assert all([await ask(client) for _ in range(10)])


async def seen(valkey: Redis, canary: Canary) -> Tally:
    """What the processes have told of a canary."""
    kept: list[bytes] = await valkey.hvals(f"hr:canary:{canary.id}")  # type: ignore[misc]
    return together([msgspec.msgpack.decode(one, type=Tally) for one in kept])


async def test_one_user_who_meets_a_failure_again_and_again_is_one_witness(house: House, valkey: Redis) -> None:
    canary, client = await begin(house, 1.0), house.openai()
    house.flow.fails = lambda turn: True
    for user in [*["Ada"] * 9, "Bob"]:
        assert not await ask(client, user)

    async def told() -> tuple[tuple[int, int], tuple[int, int]]:
        known = await seen(valkey, canary)
        return known.turns, known.events["errors"]

    await until(told, equals=((0, 10), (0, 2)))


async def test_times_to_the_first_token_are_compared(house: House, valkey: Redis) -> None:
    canary, client = await begin(house, 0.5), house.openai()
    while {varied(turn) for turn in house.flow.turns[2:]} != {True, False}:
        assert await ask(client)
    while not varied(house.flow.turns[-1]):
        assert await ask(client)

    async def told() -> int:
        return sum((await seen(valkey, canary)).turns)

    await until(told, equals=len(house.flow.turns))
    assert (await seen(valkey, canary)).wealth["ttft"] != Evidence(Random(1)).tally.wealth["ttft"]


async def test_what_another_process_has_seen_is_enough_together(house: House, valkey: Redis) -> None:
    canary, client = await begin(house, 0.5), house.openai()
    others = Tally({"errors": 2 * ENOUGH, "ttft": 0.0}, (100, 100), {"errors": (0, 40)})
    await valkey.hset(f"hr:canary:{canary.id}", "another", msgspec.msgpack.encode(others))  # type: ignore[misc]
    assert await ask(client)
    await until(lambda: status(house, canary), equals="rolled_back")


async def test_a_turn_of_no_canary_leaves_nothing_behind(house: House, valkey: Redis) -> None:
    assert await ask(house.openai())
    assert await valkey.keys("hr:canary:*") == []


def asking(number: int, canary: str, arm: Arm, session: str) -> Turn:
    """A turn on one side of a canary."""
    choice = Choice("model", "", "primary", canary, arm, 0.1, session)
    return Turn(f"r{number}", OURS, "headrace-direct", (Message("user", "Hi"),), Sampling(), 0, 5, choices=(choice,))


def run(turn: Turn, house: House) -> Run:
    """What a turn is answered with that nobody waits for."""
    return Run(Writer(LogRef(turn.id, "ours", (), record=False), house.context.outbox), Tape(), house.context.store)


async def test_a_session_that_fails_in_two_processes_is_one_witness(house: House, valkey: Redis) -> None:
    canary = await begin(house, 0.1)
    processes = [Compared(house.context.settings, Failing()) for _ in range(2)]
    for number, (process, session) in enumerate([(processes[0], "Ada"), (processes[1], "Ada"), (processes[1], "Bob")]):
        turn = asking(number, canary.id, "variant", session)
        await process.answer(
            turn, Run(Writer(LogRef(turn.id, "ours", (), record=False), house.context.outbox), Tape(), house.context.store)
        )

    async def told() -> tuple[tuple[int, int], tuple[int, int]]:
        known = await seen(valkey, canary)
        return known.turns, known.events["errors"]

    await until(told, equals=((0, 3), (0, 2)))
    assert await valkey.ttl(f"hr:canary:{canary.id}:failed") > 0
    for process in processes:
        await process.close()


async def test_of_more_canaries_than_are_kept_in_mind_the_one_met_longest_ago_is_forgotten(house: House, valkey: Redis) -> None:
    first, process = await begin(house, 0.1), Compared(house.context.settings, Failing())
    others = [f"can_{number}" for number in range(2 * MOST_OPEN)]
    for number, canary in enumerate([first.id, *others[:-1], first.id, others[-1]]):
        turn = asking(number, canary, "control", f"{number}")
        await process.answer(
            turn, Run(Writer(LogRef(turn.id, "ours", (), record=False), house.context.outbox), Tape(), house.context.store)
        )

    async def told() -> tuple[int, int, int]:
        return (
            (await seen(valkey, first)).turns[0],
            await valkey.exists(f"hr:canary:{others[-1]}"),
            await valkey.exists(f"hr:canary:{others[0]}"),
        )

    await until(told, equals=(2, 1, 0))
    await process.close()


async def test_while_valkey_is_away_a_process_goes_by_what_it_has_seen(tmp_path: Path) -> None:
    async with database(tmp_path) as store:
        begun = await Canaries(store, "test").start(Variation(kind="model", value="primary", weight=0.1))
        compared = Compared(Settings(data_dir=tmp_path, valkey_url=SecretStr("unix:///nowhere")), Failing())
        outbox = Outbox(connect("unix:///nowhere"), Log())
        for number in range(40):
            arm: Arm = "variant" if number % 10 == 9 else "control"
            turn = asking(number, begun.id, arm, f"{number}")
            writer = Writer(LogRef(turn.id, "ours", (), record=False), outbox)
            await compared.answer(turn, Run(writer, Tape(), store))

        async def ended() -> str:
            return (await Canaries(store, "test").get(begun.id)).status

        await until(ended, equals="rolled_back")
        await compared.close()
        await outbox.close()
