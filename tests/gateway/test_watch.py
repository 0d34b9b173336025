"""The watch over open connections."""

import asyncio
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

    ended: bool = False

    def end(self) -> None:
        self.ended = True


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
    watch = Watch()
    running = asyncio.create_task(watch.run())
    yield watch
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize("error", [Unauthenticated("x"), Forbidden("x"), TenantSuspended("x")])
async def test_who_may_not_stay_is_ended_and_others_are_not(watch: Watch, error: HeadraceError) -> None:
    gone, here = Caller(error), Caller()
    ended, kept = [Connection(), Connection()], Connection()
    for connection in ended:
        watch.add(gone.proof, connection)
    watch.add(here.proof, kept)
    await until(lambda: [connection.ended for connection in ended], equals=[True, True], within_s=1)
    assert not kept.ended


@pytest.mark.parametrize("error", [Overloaded("x"), OSError("x"), ValueError("x")])
async def test_who_can_not_be_looked_at_now_stays_and_is_looked_at_again(watch: Watch, error: Exception) -> None:
    caller, connection = Caller(error), Connection()
    watch.add(caller.proof, connection)
    await until(lambda: caller.proved >= 2, within_s=2)
    assert not connection.ended
    caller.error = Unauthenticated("x")
    await until(lambda: connection.ended, within_s=1)


async def test_connections_of_one_caller_are_proved_together_and_none_after_the_last(watch: Watch) -> None:
    caller, connections = Caller(), [Connection() for _ in range(50)]
    for connection in connections:
        watch.add(caller.proof, connection)
    await until(lambda: caller.proved >= 1, within_s=1)
    assert caller.proved == 1
    for connection in connections:
        watch.discard(caller.proof, connection)
    assert not watch._watched
