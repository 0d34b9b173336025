"""A second backend beside a slow one: who speaks first answers, the other is let go, and both are counted."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from random import Random

import msgspec
import pytest

from deployments.core import config
from deployments.core.account import OK, STOPPED, Account, Attempt
from deployments.core.errors import BackendFailed, HeadraceError
from deployments.core.sections import Resilience, Upstream
from deployments.core.types import Generation, Usage
from deployments.generator.chain import Chain
from deployments.generator.sse import Piece
from tests.generator.test_chain import asked

AFTER_S = 0.02


class Timed:
    """A backend that says its name once it is let to, word by word, or fails then."""

    def __init__(self, name: str, error: HeadraceError | None = None):
        self.name, self.error = name, error
        self.may = asyncio.Event()
        self.asked = asyncio.Event()
        self.left = asyncio.Event()

    async def stream(self, generation: Generation, said: str, last: float) -> AsyncGenerator[Piece]:
        self.asked.set()
        try:
            yield Piece()  # the role, as most backends begin
            await self.may.wait()
            if self.error:
                raise self.error
            for _ in range(3):
                yield Piece(self.name, chunks=1)
                await asyncio.sleep(0)
            yield Piece(reason="stop")
            yield Piece(usage=Usage(2, 3), done=True)
        finally:
            self.left.set()

    async def close(self) -> None:
        """Nothing is open."""


class Race:
    """Two backends, of which the second is asked where the first is silent for too long."""

    def __init__(self, first: Timed, second: Timed, **resilience: float):
        backends = {"primary": first, "spare": second}
        self.attempts: list[Attempt] = []
        fallback = Upstream(name="spare", base_url="u", model="m")
        settings = config.Generator(resilience=Resilience.model_validate({"hedge_s": AFTER_S} | resilience), fallbacks=(fallback,))
        self.chain = Chain(lambda one: backends[one.name], settings, Random(0), self._note)

    def _note(self, tenant: str, account: Account, attempt: Attempt) -> None:
        self.attempts.append(attempt)

    async def text(self, *, hedged: bool = True) -> str:
        generation = msgspec.structs.replace(asked(), hedged=hedged)
        return "".join([piece.text async for piece in self.chain.stream(generation)])


async def test_the_second_answers_where_the_first_is_silent_and_both_are_counted() -> None:
    slow, quick = Timed("slow"), Timed("quick")
    quick.may.set()
    race = Race(slow, quick)
    assert await race.text() == "quickquickquick"
    assert slow.left.is_set()
    assert sorted((one.backend, one.outcome) for one in race.attempts) == [("primary", STOPPED), ("spare", OK)]


async def test_the_first_answers_where_it_speaks_first_after_all() -> None:
    slow, other = Timed("slow"), Timed("other")
    race = Race(slow, other)
    answer = asyncio.create_task(race.text())
    await other.asked.wait()
    slow.may.set()
    assert await answer == "slowslowslow"
    assert other.left.is_set()


async def test_nobody_else_is_asked_where_the_first_is_quick() -> None:
    quick, other = Timed("quick"), Timed("other")
    quick.may.set()
    assert await Race(quick, other, hedge_s=30).text() == "quickquickquick"
    assert not other.asked.is_set()


@pytest.mark.parametrize("fails", ["first", "second"])
async def test_one_that_fails_leaves_the_word_to_the_other(fails: str) -> None:
    first, second = (Timed(name, BackendFailed("broke") if name == fails else None) for name in ("first", "second"))
    race = Race(first, second)
    answer = asyncio.create_task(race.text())
    await second.asked.wait()
    failing, other = (first, second) if fails == "first" else (second, first)
    failing.may.set()
    await failing.left.wait()
    other.may.set()
    assert await answer == other.name * 3
    assert sorted(one.outcome for one in race.attempts) == ["backend_error", OK]


async def test_where_both_fail_the_answer_fails() -> None:
    first, second = Timed("first", BackendFailed("one")), Timed("second", BackendFailed("other"))
    race = Race(first, second, attempts=2)
    answer = asyncio.create_task(race.text())
    await second.asked.wait()
    first.may.set()
    second.may.set()
    with pytest.raises(BackendFailed):
        await answer
    assert len(race.attempts) == 2


async def test_work_that_nobody_waits_for_is_not_asked_of_two() -> None:
    slow, other = Timed("slow"), Timed("other")
    race = Race(slow, other)
    answer = asyncio.create_task(race.text(hedged=False))
    await asyncio.sleep(3 * AFTER_S)
    assert not other.asked.is_set()
    slow.may.set()
    assert await answer == "slowslowslow"


async def test_without_a_retry_left_no_second_is_asked() -> None:
    slow, other = Timed("slow"), Timed("other")
    race = Race(slow, other, spare_retries=0, retry_share=0)
    answer = asyncio.create_task(race.text())
    await asyncio.sleep(3 * AFTER_S)
    assert not other.asked.is_set()
    slow.may.set()
    assert await answer == "slowslowslow"


async def test_a_caller_that_leaves_ends_both() -> None:
    slow, other = Timed("slow"), Timed("other")
    race = Race(slow, other)
    async with aclosing(race.chain.stream(msgspec.structs.replace(asked(), hedged=True))) as pieces:
        waiting = asyncio.ensure_future(anext(pieces))
        await other.asked.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert slow.left.is_set()
    assert other.left.is_set()
    assert [one.outcome for one in race.attempts] == [STOPPED, STOPPED]
