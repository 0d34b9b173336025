"""The timeout that is put off by assignment."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from deployments.core.patience import Patience


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_it_ends_a_body_that_takes_too_long() -> None:
    with pytest.raises(TimeoutError):
        async with Patience(now() + 0.02):
            await asyncio.sleep(5)


async def test_putting_it_off_lets_the_body_go_on() -> None:
    async with Patience(now() + 0.5) as patience:
        for _ in range(8):
            patience.until = now() + 0.5
            await asyncio.sleep(0.1)


async def test_it_ends_a_body_that_stops_putting_it_off() -> None:
    patience = Patience(now() + 0.05)

    async def body() -> None:
        async with patience:
            patience.until = now() + 0.1
            await asyncio.sleep(5)

    with pytest.raises(TimeoutError):
        await body()


async def test_what_is_moved_nearer_takes_effect_at_once() -> None:
    patience = Patience(now() + 30)

    async def body() -> None:
        async with patience:
            patience.until = now() + 0.02
            await asyncio.sleep(5)

    began = now()
    with pytest.raises(TimeoutError):
        await body()
    assert now() - began < 2


async def test_a_cancellation_from_outside_is_not_a_timeout() -> None:
    async def body() -> None:
        async with Patience(Patience.never):
            await asyncio.sleep(5)

    task = asyncio.create_task(body())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_of_the_body_passes_through() -> None:
    with pytest.raises(ValueError, match="inside"):
        async with Patience(now() + 1):
            raise ValueError("inside")


async def test_what_waits_without_a_limit_gets_one_that_holds_to_the_moment() -> None:
    patience = Patience(now() + 0.02)

    async def body() -> None:
        async with patience:
            patience.until = Patience.never
            await asyncio.sleep(0.1)
            patience.until = now() + 0.02
            await asyncio.sleep(5)

    began = now()
    with pytest.raises(TimeoutError):
        await body()
    assert 0.1 < now() - began < 1


async def test_a_reader_of_a_generator_takes_its_own_time() -> None:
    async def numbers() -> AsyncGenerator[int]:
        async with Patience(now() + 0.02) as patience:
            for number in range(3):
                patience.until = Patience.never
                yield number
                patience.until = now() + 0.02

    read: list[int] = []
    async with aclosing(numbers()) as found:
        async for number in found:
            await asyncio.sleep(0.06)
            read.append(number)
    assert read == [0, 1, 2]
