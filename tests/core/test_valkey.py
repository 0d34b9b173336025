"""The client of Valkey."""

import asyncio

from redis.asyncio import Redis


async def test_a_cancellation_is_never_lost_in_a_command(valkey: Redis) -> None:
    """redis-py with a read timeout of its own lost one in four: who was cancelled went on as if nothing had happened."""

    async def work() -> None:
        while True:
            await valkey.ping()

    for steps in range(200):
        task = asyncio.create_task(work())
        for _ in range(steps % 15):
            await asyncio.sleep(0)
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=2)
        assert done
        assert task.cancelled() or task.exception()
