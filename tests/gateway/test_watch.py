"""The watch over open connections."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from deployments.core.errors import Forbidden, HeadraceError, Overloaded, TenantSuspended, Unauthenticated
from deployments.core.types import Principal
from deployments.gateway.watch import Proof, Watch
from tests.fakes import until


@dataclass(eq=False)
class Connection:
    """Notes when it is told to end."""

    ended: HeadraceError | None = None

    def end(self, why: HeadraceError) -> None:
        self.ended = why


@dataclass
class Caller:
    """Proves itself until it is told to fail."""

    error: Exception | None = None
    proved: int = 0
    proof: Proof = field(init=False)

    def __post_init__(self) -> None:
        self.proof = Proof(id(self), self.again)

    async def again(self) -> Principal:
        self.proved += 1
        if self.error:
            raise self.error
        return Principal("acme", "key_1", frozenset())


@pytest.fixture
async def watch() -> AsyncIterator[Watch]:
    watch = Watch(every_s=0.02)
    running = asyncio.create_task(watch.run())
    yield watch
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize("error", [Unauthenticated("x"), Forbidden("x"), TenantSuspended("x")])
async def test_who_may_not_stay_is_ended_and_others_are_not(watch: Watch, error: HeadraceError) -> None:
    gone, here = Caller(error), Caller()
    first, second, kept = Connection(), Connection(), Connection()
    with watch.over(gone.proof, first.end), watch.over(gone.proof, second.end), watch.over(here.proof, kept.end):
        await until(lambda: (first.ended, second.ended), equals=(error, error), within_s=1)
    assert not kept.ended


@pytest.mark.parametrize("error", [Overloaded("x"), OSError("x"), ValueError("x")])
async def test_who_can_not_be_looked_at_now_stays_and_is_looked_at_again(watch: Watch, error: Exception) -> None:
    caller, connection = Caller(error), Connection()
    with watch.over(caller.proof, connection.end):
        await until(lambda: caller.proved >= 2, within_s=2)
        assert not connection.ended
        caller.error = Unauthenticated("x")
        await until(lambda: connection.ended, equals=caller.error, within_s=1)


async def test_connections_of_one_caller_are_proved_together_and_none_after_the_last(watch: Watch) -> None:
    caller, connections = Caller(), [Connection() for _ in range(50)]
    with contextlib.ExitStack() as open_ones:
        for connection in connections:
            open_ones.enter_context(watch.over(caller.proof, connection.end))
        await until(lambda: caller.proved >= 1, within_s=1)
        assert caller.proved == 1
    assert not watch._watched
