"""The load goes on whatever becomes of its answers, and tells each end for what it is."""

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest

from loadtest.chaos.answer import Fate, Kind
from loadtest.chaos.load import Load, Plan, client, loaded
from loadtest.chaos.proxy import End, Proxy, Trouble
from tests.loadtest.conftest import TOKENS, Simulator

CHATS = Plan(rate_s=40, model="sim", words=TOKENS, mix=(Kind.CHAT,))


async def asked(port: int, count: int = 10, plan: Plan = CHATS) -> Load:
    """So many answers or more, each with its end."""
    async with client("none") as http, loaded(Load(f"http://127.0.0.1:{port}/v1", "none", http, plan)) as load:
        while len(load.answers) < count:
            await asyncio.sleep(0.01)
    return load


def fates(load: Load) -> set[Fate]:
    return set(Counter(answer.fate for answer in load.answers))


async def test_answers_are_whole_and_each_was_one_good_attempt(simulator: Simulator) -> None:
    load = await asked(simulator.port)
    assert fates(load) == {Fate.WHOLE}
    assert all(attempt.good for attempt in load.attempts)
    assert len(load.attempts) == len(load.answers) >= 10


@pytest.mark.parametrize(
    ("suffix", "fate"), [("cut=5", Fate.CUT), ("error=503:1", Fate.REFUSED), ("error=503", Fate.ERROR), ("error=500:1", Fate.ERROR)]
)
async def test_an_end_is_told_for_what_it_is(simulator: Simulator, suffix: str, fate: Fate) -> None:
    plan = Plan(rate_s=40, model=f"sim@{suffix}", words=TOKENS, mix=(Kind.CHAT,))
    assert fates(await asked(simulator.port, plan=plan)) == {fate}


async def test_a_shorter_text_than_was_to_come_is_a_silent_truncation(spawn: Callable[..., Simulator]) -> None:
    short = spawn("--ttft-ms", "1", "--itl-ms", "1", "--tokens", str(TOKENS - 1))
    assert fates(await asked(short.port)) == {Fate.SILENT}


async def test_a_connection_that_is_reset_or_refused_on_the_wire_is_noticed(simulator: Simulator) -> None:
    async with Proxy(simulator.port) as proxy:
        proxy.down = Trouble(after=2000, end=End.CUT)
        assert fates(await asked(proxy.port)) == {Fate.CUT}
        await proxy.refuse()
        refused = await asked(proxy.port)
    assert fates(refused) == {Fate.CUT}
    assert not any(attempt.good for attempt in refused.attempts)


async def test_a_resumed_answer_that_never_comes_is_asked_for_ever_more_seldom(simulator: Simulator) -> None:
    """Nobody answers at this URL; a client that hammers on would try dozens of times."""
    async with client("none") as http:
        load = Load(f"http://127.0.0.1:{simulator.port}/none", "none", http, CHATS)
        answer = load.ask(Kind.RESPONSE)
        while answer.connections < 3:
            await asyncio.sleep(0.01)
        began, first = asyncio.get_running_loop().time(), answer.connections
        while answer.connections < first + 2:
            await asyncio.sleep(0.01)
        assert asyncio.get_running_loop().time() - began > 0.5
        load.abandon()
        await load.drain()
    assert answer.fate is not Fate.WHOLE
