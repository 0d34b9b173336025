"""A call of another stage, as its caller sees it end."""

import asyncio
from typing import Any

import pytest

from deployments.core.client import call
from deployments.core.errors import StreamInterrupted


class Response:
    """What a handle gives for a call: ends as the far side does."""

    def __init__(self, far: asyncio.Future[str]):
        self._far = far
        self.cancelled = False

    def __await__(self) -> Any:
        return self._far.__await__()

    def cancel(self) -> None:
        self.cancelled = True


async def test_a_call_that_was_ended_over_there_is_a_failure_and_no_cancellation_of_ours() -> None:
    far = asyncio.get_running_loop().create_future()
    far.cancel()
    with pytest.raises(StreamInterrupted):
        await call(Response(far))  # type: ignore[arg-type]


async def test_who_is_cancelled_cancels_the_call() -> None:
    response = Response(asyncio.get_running_loop().create_future())
    task = asyncio.create_task(call(response))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert response.cancelled
