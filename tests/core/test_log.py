"""The response log against a real Valkey."""

import asyncio
import random
import signal

import msgspec
import pytest
from redis.asyncio import Redis

from deployments.core import config
from deployments.core.errors import StreamInterrupted
from deployments.core.follow import STOP_CHANNEL, Follower, Hub, receive
from deployments.core.log import read, stream_key
from deployments.core.outbox import REPLY_S, Outbox
from deployments.core.types import Citation, Cited, Delta, Failed, Finished, LogRef, Opened, Outcome, Text, Usage
from deployments.core.valkey import connect
from tests.conftest import Server
from tests.fakes import until

SETTINGS = config.Log(tick_ms=2, stall_s=3)


def ref(hub: Hub, name: str = "r1", record: bool = True) -> LogRef:
    return LogRef(name, "t1", (hub.channel,), record)


async def collect(follower: Follower) -> list[Delta]:
    deltas: list[Delta] = []
    while not deltas or not isinstance(deltas[-1], Finished | Failed):
        deltas += await follower.read()
    return deltas


async def write(outbox: Outbox, at: LogRef, words: list[str], pause_s: float = 0.0) -> None:
    with outbox.writer(at) as writer:
        writer.open()
        for word in words:
            writer.text(word)
            await asyncio.sleep(pause_s)
        writer.cite(Citation(0, 3, 1, "u", "t"))
        writer.end(writer.finished(Outcome(writer.next_seq, "stop", Usage(3, len(words)))))
        await writer.drain()


async def test_a_follower_reads_what_was_written_numbered_without_a_gap(valkey: Redis, hub: Hub) -> None:
    outbox = Outbox(valkey, SETTINGS)
    words = [f"w{i} " for i in range(50)]
    with hub.follow("r1") as follower:
        _, deltas = await asyncio.gather(write(outbox, ref(hub), words, 0.001), collect(follower))
    assert [d.seq for d in deltas] == list(range(len(deltas)))
    assert [type(deltas[0]), type(deltas[-2]), type(deltas[-1])] == [Opened, Cited, Finished]
    assert "".join(d.text for d in deltas if isinstance(d, Text)) == "".join(words)


async def test_the_first_text_leaves_at_once_and_what_waits_leaves_as_one(valkey: Redis, hub: Hub) -> None:
    outbox = Outbox(valkey, config.Log(tick_ms=30))
    with hub.follow("r1") as follower, outbox.writer(ref(hub)) as writer:
        writer.text("a")
        first = await follower.read()
        writer.text("b")
        writer.text("c")
        second = await follower.read()
    assert first == [Text(0, "a")]
    assert second == [Text(1, "bc")]


async def test_the_record_holds_the_same_deltas_and_expires(valkey: Redis, hub: Hub) -> None:
    outbox = Outbox(valkey, SETTINGS)
    with hub.follow("r1") as follower:
        _, deltas = await asyncio.gather(write(outbox, ref(hub), ["a", "b"], 0.01), collect(follower))
    assert await read(valkey, ref(hub)) == deltas
    assert await read(valkey, ref(hub), after=1) == deltas[2:]
    assert 0 < await valkey.ttl(stream_key(ref(hub))) <= SETTINGS.ttl_s


async def test_an_unrecorded_log_leaves_no_key(valkey: Redis, hub: Hub) -> None:
    outbox = Outbox(valkey, SETTINGS)
    with hub.follow("r1") as follower:
        await asyncio.gather(write(outbox, ref(hub, record=False), ["a"]), collect(follower))
    assert await valkey.keys("*") == []


async def test_a_stale_writer_is_refused(valkey: Redis, hub: Hub) -> None:
    outbox = Outbox(valkey, SETTINGS)
    with outbox.writer(ref(hub)) as old, outbox.writer(ref(hub)) as new:
        old.text("first")
        await old.drain()
        new.fence([Text(0, "first")])
        new.text("second")
        await new.drain()
        old.text("late")
        with pytest.raises(StreamInterrupted) as error:
            await old.drain()
    assert error.value.wire_code == "fenced"


async def test_what_was_recorded_beyond_a_fence_is_void(valkey: Redis, hub: Hub) -> None:
    outbox = Outbox(valkey, SETTINGS)
    with outbox.writer(ref(hub)) as old, outbox.writer(ref(hub)) as new:
        for word in "abcd":
            old.text(word)
            await old.drain()
        new.fence([Text(0, "a"), Text(1, "b")])
        last = new.cancelled()
        new.end(last)
        await new.drain()
    assert await read(valkey, ref(hub)) == [Text(0, "a"), Text(1, "b"), last]


async def test_a_log_whose_beginning_was_overtaken_has_its_end_recorded_all_the_same(valkey: Redis, hub: Hub) -> None:
    """Who took the log over may record before who handed it over has: then nobody knows any more how much of it is recorded."""
    ours, theirs = Outbox(valkey, SETTINGS, local=hub), Outbox(valkey, SETTINGS)
    with hub.tape("r1") as tape, ours.writer(ref(hub)) as writer:
        writer.open()
        opened = writer.written
        with theirs.writer(msgspec.structs.replace(ref(hub), written=opened)) as other:
            other.text("seen")
            await other.drain()
            await until(lambda: len(tape.deltas), equals=2)
            seen = list(tape.deltas)
            other.text("not seen")
            await other.drain()
        writer.recorded = None  # as a flush leaves it that was refused, because the other's came first
        writer.fence(seen)
        writer.end(writer.cancelled())
        await writer.drain()
    assert await read(valkey, ref(hub)) == [*seen, writer.written[-1]]


async def test_what_a_fenced_writer_still_sends_reaches_no_follower_though_the_fence_is_not_flushed_yet(
    valkey: Redis, valkey_server: Server, hub: Hub
) -> None:
    flows = Outbox(valkey, SETTINGS, local=hub)
    with hub.follow("r1") as follower, flows.writer(ref(hub)) as flow:
        flow.open()
        opened = await follower.read()
        await flow.drain()
        flow.fence(opened)
        hub.deliver(("r1", 1, [Text(1, "late"), Text(2, "words")]))
        last = flow.cancelled()
        flow.end(last)
        async with asyncio.timeout(5):
            assert await follower.read() == [last]


async def test_a_response_in_this_process_needs_no_push(valkey: Redis, hub: Hub) -> None:
    outbox = Outbox(valkey, SETTINGS, local=hub)
    with hub.follow("r1") as follower:
        _, deltas = await asyncio.gather(write(outbox, ref(hub, record=False), ["a"]), collect(follower))
    assert isinstance(deltas[-1], Finished)


@pytest.mark.parametrize("record", [True, False])
async def test_valkey_killed_and_wiped_is_a_stall_without_a_gap(valkey: Redis, valkey_server: Server, hub: Hub, record: bool) -> None:
    outbox = Outbox(valkey, SETTINGS)
    words = [f"w{i} " for i in range(150)]
    with hub.follow("r1") as follower:
        writing = asyncio.create_task(write(outbox, ref(hub, record=record), words, 0.005))
        reading = asyncio.create_task(collect(follower))
        await until(lambda: follower.next_seq > 5)
        valkey_server.kill()
        await asyncio.sleep(0.2)
        valkey_server.start()
        await asyncio.gather(writing, reading)
    deltas = reading.result()
    assert [d.seq for d in deltas] == list(range(len(deltas)))
    assert "".join(d.text for d in deltas if isinstance(d, Text)) == "".join(words)
    if record:
        assert await read(valkey, ref(hub)) == deltas


async def test_who_handed_a_log_over_and_who_took_it_both_write_it_again_and_neither_is_fenced(
    valkey: Redis, valkey_server: Server, hub: Hub
) -> None:
    theirs = connect(valkey_server.url)
    flows, generators = Outbox(valkey, SETTINGS, local=hub), Outbox(theirs, SETTINGS)

    async def answer(number: int) -> int:
        at = ref(hub, f"r{number}")
        with hub.tape(at.response_id) as tape, flows.writer(at) as flow:
            flow.open()
            with generators.writer(LogRef(at.response_id, "t1", at.channels, True, written=flow.written)) as generator:
                for word in range(40):
                    generator.text(f"w{word} ")
                    await asyncio.sleep(0.02)
                await generator.drain()
            assert await tape.until(generator.next_seq, 5)
            flow.adopt(tape.deltas)
            flow.end(flow.finished(Outcome(flow.next_seq, "stop", Usage())))
            await flow.drain()
            return "".join(delta.text for delta in tape.deltas if isinstance(delta, Text)).count("w")

    answers = [asyncio.create_task(answer(number)) for number in range(30)]
    await asyncio.sleep(0.3)
    valkey_server.kill()
    valkey_server.start()
    assert await asyncio.gather(*answers) == [40] * 30
    await theirs.aclose()


async def test_valkey_that_hangs_counts_as_away(valkey: Redis, valkey_server: Server, hub: Hub) -> None:
    unbounded = connect(valkey_server.url)
    outbox = Outbox(unbounded, config.Log(tick_ms=2, stall_s=10))
    with hub.follow("r1") as follower, outbox.writer(ref(hub)) as writer:
        writer.text("a")
        assert await follower.read() == [Text(0, "a")]
        valkey_server.signal(signal.SIGSTOP)
        writer.text("b")
        await asyncio.sleep(REPLY_S + 0.5)
        valkey_server.signal(signal.SIGCONT)
        await writer.drain()
        assert await follower.read() == [Text(1, "b")]
    assert await read(valkey, ref(hub)) == [Text(0, "a"), Text(1, "b")]
    await unbounded.aclose()


async def test_a_follower_that_never_comes_back_breaks_the_writer(valkey: Redis) -> None:
    outbox = Outbox(valkey, config.Log(stall_s=0.2))
    with outbox.writer(LogRef("r1", "t1", ("hr:push:nobody",), False)) as writer:
        writer.text("a")
        with pytest.raises(StreamInterrupted):
            await writer.drain()


async def test_deltas_nobody_follows_are_answered_with_a_stop(valkey: Redis, hub: Hub) -> None:
    stopped: list[bytes] = []
    listening = asyncio.Event()
    listener = asyncio.create_task(receive(valkey, STOP_CHANNEL, listening, stopped.append))
    await listening.wait()
    outbox = Outbox(valkey, SETTINGS)
    with outbox.writer(ref(hub, "orphan")) as writer:
        writer.text("a")
        await until(lambda: len(stopped), equals=1)
    listener.cancel()
    assert stopped == [b"orphan"]


async def test_a_follower_that_lags_is_cut_and_holds_nothing() -> None:
    follower = Follower(max_lag_bytes=10)
    follower.deliver(1, [Text(0, "x" * 11)])
    with pytest.raises(StreamInterrupted) as error:
        await follower.read()
    assert error.value.wire_code == "client_too_slow"


def test_any_order_and_any_repetition_reads_the_same() -> None:
    deltas: list[Delta] = [Text(n, str(n)) for n in range(30)]
    for seed in range(50):
        chance = random.Random(seed)
        arrivals = [deltas[i : i + 3] for i in range(0, 30, chance.choice([1, 2, 3]))]
        arrivals += chance.sample(arrivals, 3)
        chance.shuffle(arrivals)
        follower = Follower(1 << 20)
        for arrival in arrivals:
            follower.deliver(1, arrival)
        assert follower._ready == deltas


def test_the_tick_grows_with_the_open_answers(valkey: Redis) -> None:
    outbox = Outbox(valkey, config.Log(tick_ms=10, max_tick_ms=40))
    assert outbox.tick_s == 0.01
    outbox.writers = {object() for _ in range(1000)}  # type: ignore[assignment]
    assert outbox.tick_s == 0.04


async def test_what_is_written_at_a_beat_leaves_with_its_flush(valkey: Redis, hub: Hub) -> None:
    outbox = Outbox(valkey, config.Log(tick_ms=50))
    with hub.follow("r1") as follower, outbox.writer(ref(hub)) as writer:
        writer.text("first ")
        await follower.read()
        started = asyncio.get_running_loop().time()
        await outbox.beat()
        writer.text("second")
        assert await follower.read() == [Text(1, "second")]
        assert asyncio.get_running_loop().time() - started < 0.09


async def test_a_beat_comes_when_there_is_nothing_to_flush(valkey: Redis) -> None:
    outbox = Outbox(valkey, SETTINGS)
    for _ in range(3):
        async with asyncio.timeout(1):
            await outbox.beat()
