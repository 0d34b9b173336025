"""Shared logs: late readers, several of them, and the taking over of a log, against a real Valkey."""

import asyncio
import contextlib

import pytest
from redis.asyncio import Redis

from deployments.core import config
from deployments.core.errors import Overloaded, StreamInterrupted
from deployments.core.follow import Follower, Hub
from deployments.core.log import read, seize, stream_key
from deployments.core.outbox import Outbox
from deployments.core.types import Cancelled, Delta, Failed, Finished, LogRef, Opened, Outcome, Text, Usage
from tests.conftest import Server
from tests.fakes import until

SETTINGS = config.Log(tick_ms=2, stall_s=3)
REF = LogRef("r1", "t1", (), record=True, shared=True)


async def collect(follower: Follower) -> list[Delta]:
    deltas: list[Delta] = []
    while not deltas or not isinstance(deltas[-1], Finished | Failed | Cancelled):
        deltas += await follower.read()
    return deltas


async def late(hub: Hub, delay_s: float) -> list[Delta]:
    await asyncio.sleep(delay_s)
    async with hub.attach(REF, 5) as follower:
        return await collect(follower)


async def write(outbox: Outbox, words: list[str], ref: LogRef = REF, pause_s: float = 0.002) -> None:
    with outbox.writer(ref) as writer:
        if not ref.written:
            writer.open()
        for word in words:
            writer.text(word)
            await asyncio.sleep(pause_s)
        writer.end(writer.finished(Outcome(writer.next_seq, "stop", Usage(3, len(words)))))
        await writer.drain()


async def test_readers_who_come_at_any_time_read_the_same(valkey: Redis, hub: Hub) -> None:
    words = [f"w{i} " for i in range(100)]
    writing = asyncio.create_task(write(Outbox(valkey, SETTINGS), words))
    logs = await asyncio.gather(*(late(hub, n * 0.03) for n in range(10)))
    await writing
    assert "".join(delta.text for delta in logs[0] if isinstance(delta, Text)) == "".join(words)
    assert all(log == logs[0] for log in logs)
    assert await read(valkey, REF) == logs[0]
    await until(lambda: hub._shared, equals={})


async def test_a_log_that_is_taken_over_goes_on_behind_what_was_read(valkey: Redis, hub: Hub) -> None:
    old = Outbox(valkey, SETTINGS)
    writing = asyncio.create_task(write(old, [f"old{i} " for i in range(500)]))
    async with hub.attach(REF, 5) as follower:
        first = await follower.read()
        while len(first) < 5:
            first += await follower.read()
        higher = LogRef("r1", "t1", (), record=True, shared=True, epoch=2)
        so_far = await seize(valkey, higher, SETTINGS.ttl_s)
        ours = LogRef("r1", "t1", (), record=True, shared=True, epoch=2, written=tuple(so_far))
        await write(Outbox(valkey, SETTINGS), ["new"], ours)
        with pytest.raises(StreamInterrupted, match="taken over"):
            await writing
        log = first + await collect(follower)
    assert [delta.seq for delta in log] == list(range(len(log)))
    assert log[: len(so_far)] == so_far
    assert log[-2] == Text(len(so_far), "new")
    assert await read(valkey, REF) == log


async def test_a_log_can_not_be_taken_over_from_a_higher_epoch(valkey: Redis) -> None:
    await seize(valkey, LogRef("r1", "t1", (), True, True, epoch=7), 60)
    with pytest.raises(StreamInterrupted, match="taken over"):
        await seize(valkey, LogRef("r1", "t1", (), True, True, epoch=6), 60)
    assert 0 < await valkey.ttl(stream_key(REF)) <= 60


async def test_valkey_wiped_in_a_pause_of_the_writer_is_noticed_at_its_next_word(valkey: Redis, valkey_server: Server, hub: Hub) -> None:
    outbox = Outbox(valkey, SETTINGS)
    async with hub.attach(REF, 5) as follower:
        with outbox.writer(REF) as writer:
            writer.open()
            writer.text("before ")
            await writer.drain()
            valkey_server.kill()
            valkey_server.start()
            await until(lambda: answers(valkey))
            writer.text("after")
            writer.end(writer.finished(Outcome(writer.next_seq, "stop", Usage(1, 1))))
            await writer.drain()
        log = await collect(follower)
        async with hub.attach(REF, 5) as late_follower:
            assert await collect(late_follower) == log
    assert [type(delta) for delta in log] == [Opened, Text, Text, Finished]


async def answers(valkey: Redis) -> bool:
    with contextlib.suppress(Exception):
        return bool(await valkey.ping())
    return False


async def test_watchers_go_on_when_valkey_was_killed_and_wiped(valkey: Redis, valkey_server: Server, hub: Hub) -> None:
    words = [f"w{i} " for i in range(200)]
    writing = asyncio.create_task(write(Outbox(valkey, SETTINGS), words, pause_s=0.005))
    watching = [asyncio.create_task(late(hub, 0.01 * n)) for n in range(3)]
    await asyncio.sleep(0.3)
    valkey_server.kill()
    await asyncio.sleep(0.3)
    valkey_server.start()
    watching.append(asyncio.create_task(late(hub, 0.3)))
    await writing
    logs = await asyncio.gather(*watching)
    assert [delta.seq for delta in logs[0]] == list(range(len(logs[0])))
    assert "".join(delta.text for delta in logs[0] if isinstance(delta, Text)) == "".join(words)
    assert all(log == logs[0] for log in logs)


async def test_who_can_not_be_attached_in_time_is_told_so(valkey: Redis) -> None:
    hub = Hub(valkey, SETTINGS)  # never started
    with pytest.raises(Overloaded):
        async with hub.attach(REF, 0.05):
            pass
    assert hub._shared == {}
