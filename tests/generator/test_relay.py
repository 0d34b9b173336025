"""A model call from the backend into the log."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from random import Random

import msgspec
import pytest
from redis.asyncio import Redis

from deployments.core import config
from deployments.core.errors import Overloaded, StreamInterrupted
from deployments.core.follow import Follower, Hub
from deployments.core.outbox import Outbox
from deployments.core.ports import Relay
from deployments.core.sections import Resilience, Upstream
from deployments.core.tools import Tool, Toolbox
from deployments.core.types import Called, Citation, Cited, Delta, Generation, LogRef, Message, Opened, Sampling, Switched, Text
from deployments.generator.backends import Backend
from deployments.generator.chain import Chain
from deployments.generator.relay import Relays
from pipeline.citations import cite
from tests.fakes import until
from tests.generator.test_resumed import ANSWER
from tests.generator.test_resumed import whole as said
from tests.loadtest.conftest import Simulator
from tests.pipeline.test_citations import PASSAGES, URLS


class Plain:
    """A relay filter that changes nothing, and cites at the end."""

    def feed(self, text: str) -> list[str | Citation]:
        return [text]

    def flush(self) -> list[str | Citation]:
        return [" [1]", Citation(1, 4, 1, "u", "t")]


def generation(hub: Hub, name: str, deadline_s: float = 10) -> Generation:
    log = LogRef(name, "t1", (hub.channel,), record=False)
    return Generation(log, (Message("user", f"[[marker:{name}]]"),), Sampling(), (), (), deadline_s)


@pytest.fixture
async def relays(valkey: Redis, upstream: Simulator) -> AsyncIterator[Callable[..., Relays]]:
    """Makes relays over a backend that serves a model, and over others that are asked next; they are closed in the end."""
    chains: list[Chain] = []

    def make(model: str, filters: Callable[[Generation], Relay] = lambda _: Plain(), *others: str) -> Relays:
        settings = config.Generator(
            model=model,
            first_token_timeout_s=5,
            inter_token_timeout_s=0.3,
            fallbacks=tuple(Upstream(name=other, base_url=upstream.url, model=other) for other in others),
            resilience=Resilience(attempts=1 + len(others)),
        )
        chains.append(Chain(lambda one: Backend(upstream.url, "key", one.model, settings), settings, Random(0)))
        return Relays(chains[-1], Outbox(valkey, config.Log()), filters)

    yield make
    for chain in chains:
        await chain.close()


async def collect(follower: Follower, count: int) -> list[Delta]:
    deltas: list[Delta] = []
    async with asyncio.timeout(5):
        while len(deltas) < count:
            deltas += await follower.read()
    return deltas


async def test_an_answer_is_written_and_its_place_handed_back(relays: Callable[..., Relays], hub: Hub, upstream: Simulator) -> None:
    with hub.follow("whole") as follower:
        outcome = await relays("sim").generate(generation(hub, "whole"))
        deltas = await collect(follower, outcome.next_seq)
    assert [delta.seq for delta in deltas] == list(range(outcome.next_seq))
    assert "".join(d.text for d in deltas if isinstance(d, Text)).split() == [f"w{i}" for i in range(20)] + ["[1]"]
    assert isinstance(deltas[-1], Cited)
    assert (outcome.reason, outcome.usage.completion_tokens) == ("stop", 20)


async def test_a_refusal_writes_nothing(relays: Callable[..., Relays], hub: Hub, upstream: Simulator) -> None:
    with hub.follow("refused") as follower:
        with pytest.raises(Overloaded):
            await relays("sim@error=503").generate(generation(hub, "refused"))
        assert follower.next_seq == 0


async def test_a_break_after_the_first_text_is_an_interruption_and_keeps_the_text(
    relays: Callable[..., Relays], hub: Hub, upstream: Simulator
) -> None:
    with hub.follow("cut") as follower:
        with pytest.raises(StreamInterrupted):
            await relays("sim@cut=5").generate(generation(hub, "cut"))
        deltas = await collect(follower, 1)
    assert deltas[0] == Text(0, "w0", tokens=1)


@pytest.mark.parametrize("broken", ["sim@cut=5", "sim@stall=5", "sim@malformed=5"])
async def test_another_backend_goes_on_where_one_broke_off(relays: Callable[..., Relays], hub: Hub, broken: str) -> None:
    with hub.follow("seam") as follower:
        outcome = await relays(broken, lambda _: Plain(), "sim").generate(generation(hub, "seam"))
        deltas = await collect(follower, outcome.next_seq)
    assert "".join(d.text for d in deltas if isinstance(d, Text)).split() == [f"w{i}" for i in range(20)] + ["[1]"]
    assert len([delta for delta in deltas if isinstance(delta, Switched)]) == 1
    assert [delta.seq for delta in deltas] == list(range(outcome.next_seq))


async def test_a_backend_that_refuses_leaves_no_seam(relays: Callable[..., Relays], hub: Hub) -> None:
    with hub.follow("refuses") as follower:
        outcome = await relays("sim@error=503", lambda _: Plain(), "sim@error=500", "sim").generate(generation(hub, "refuses"))
        deltas = await collect(follower, outcome.next_seq)
    assert not any(isinstance(delta, Switched) for delta in deltas)
    assert outcome.usage.completion_tokens == 20


async def test_cancelling_ends_the_backends_work(relays: Callable[..., Relays], hub: Hub, upstream: Simulator) -> None:
    running = relays("sim@tokens=2000")
    with hub.follow("gone") as follower:
        task = asyncio.create_task(running.generate(generation(hub, "gone")))
        await follower.read()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (await asyncio.to_thread(upstream.entry, "gone"))["tokens_sent"] < 2000


async def test_a_stop_ends_a_generation_by_name_and_others_go_on(relays: Callable[..., Relays], hub: Hub, upstream: Simulator) -> None:
    running = relays("sim@tokens=100")
    with hub.follow("one") as one, hub.follow("two"):
        first = asyncio.create_task(running.generate(generation(hub, "one")))
        second = asyncio.create_task(running.generate(generation(hub, "two")))
        await one.read()
        running.stop("one")
        running.stop("unknown")
        await until(first.done)
        assert first.cancelled()
        assert (await second).usage.completion_tokens == 100


async def test_a_generation_goes_on_behind_what_its_log_holds(relays: Callable[..., Relays], hub: Hub, upstream: Simulator) -> None:
    written = (Opened(0), Text(1, "w0 w1"), Text(2, " w2"))
    before = generation(hub, "resumed")
    going_on = msgspec.structs.replace(before, log=msgspec.structs.replace(before.log, epoch=2, written=written))
    with hub.tape("resumed") as tape:
        tape.recall(written)
        outcome = await relays("sim").generate(going_on)
        assert await tape.until(outcome.next_seq, 5)
    text = "".join(delta.text for delta in tape.deltas if isinstance(delta, Text))
    assert text.split() == [f"w{i}" for i in range(20)] + ["[1]"]
    assert outcome.usage.completion_tokens == 17 + 2  # what came before counts a token per four characters


async def test_a_cut_after_any_delta_loses_and_repeats_nothing(relays: Callable[..., Relays], hub: Hub, upstream: Simulator) -> None:
    running = relays("sim@echo", cite)

    async def log(name: str, written: tuple[Delta, ...]) -> list[Delta]:
        ref = LogRef(name, "t1", (hub.channel,), record=False, written=written)
        asked = Generation(ref, (Message("user", ANSWER),), Sampling(), PASSAGES, URLS, 10)
        with hub.tape(name) as tape:
            tape.recall(written)
            outcome = await running.generate(asked)
            assert await tape.until(outcome.next_seq, 5)
        return tape.deltas

    whole = await log("uncut", (Opened(0),))
    cuts = [cut for cut in range(1, len(whole)) if not isinstance(whole[cut], Cited)]
    resumed = await asyncio.gather(*(log(f"cut{cut}", tuple(whole[:cut])) for cut in cuts))
    text, citations = said(whole)
    assert len(citations) >= 3
    assert len(cuts) >= 10
    assert all(said(one) == (text, citations) for one in resumed)


async def test_json_is_not_gone_on_with(relays: Callable[..., Relays], hub: Hub) -> None:
    before = generation(hub, "json")
    log = msgspec.structs.replace(before.log, written=(Opened(0), Text(1, "{")))
    with pytest.raises(StreamInterrupted):
        await relays("sim").generate(msgspec.structs.replace(before, log=log, sampling=Sampling(json_object=True)))


async def test_the_call_of_a_function_is_not_gone_on_with(relays: Callable[..., Relays], hub: Hub) -> None:
    before = generation(hub, "called")
    log = msgspec.structs.replace(before.log, written=(Opened(0), Called(1, 0, "call_1", "f", "{")))
    with pytest.raises(StreamInterrupted):
        await relays("sim").generate(msgspec.structs.replace(before, log=log))


async def test_calls_of_functions_are_passed_on(relays: Callable[..., Relays], hub: Hub, upstream: Simulator) -> None:
    toolbox = Toolbox((Tool("look_up", "Looks up.", b'{"type":"object"}'),), "required")
    with hub.tape("tools") as tape:
        outcome = await relays("sim").generate(msgspec.structs.replace(generation(hub, "tools"), toolbox=toolbox))
        await tape.until(outcome.next_seq, 5)
    calls = [delta for delta in tape.deltas if isinstance(delta, Called)]
    assert (calls[0].call_id, calls[0].name) == ("call_sim", "look_up")
    assert "".join(call.arguments for call in calls) == '{"w0":0}'
    assert outcome.reason == "tool_calls"


async def test_a_stop_text_ends_the_answer_and_is_not_said(relays: Callable[..., Relays], hub: Hub, upstream: Simulator) -> None:
    asked = msgspec.structs.replace(generation(hub, "stop"), sampling=Sampling(stop=("w5 w6",)))
    with hub.tape("stop") as tape:
        outcome = await relays("sim").generate(asked)
        await tape.until(outcome.next_seq, 5)
    text = "".join(delta.text for delta in tape.deltas if isinstance(delta, Text))
    assert text == "w0 w1 w2 w3 w4  [1]"
    assert outcome.reason == "stop"
    assert outcome.usage.completion_tokens >= 6
    assert (await asyncio.to_thread(upstream.entry, "stop"))["tokens_sent"] < 20


async def test_the_time_to_the_first_token_is_told_once_an_answer(relays: Callable[..., Relays], hub: Hub, upstream: Simulator) -> None:
    running = relays("sim")
    assert running.ttft_s.quantile(1, time.monotonic()) == 0
    for name in ("first", "second"):
        with hub.follow(name):
            await running.generate(generation(hub, name))
    now_s = time.monotonic()
    assert 0 < running.ttft_s.quantile(1, now_s) < 5
    assert running.ttft_s.total(now_s) < 2 * running.ttft_s.quantile(1, now_s) + 1e-9
