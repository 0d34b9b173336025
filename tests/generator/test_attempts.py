"""What the ledger is told of an answer: every call of a backend once, whatever became of it."""

from contextlib import aclosing
from random import Random

import msgspec
import pytest

from deployments.core import config
from deployments.core.account import OK, STOPPED, Account, Attempt
from deployments.core.errors import BackendFailed, HeadraceError, Unreachable
from deployments.core.sections import Upstream
from deployments.core.types import Generation, Message
from deployments.generator.chain import Chain
from tests.generator.test_chain import ANSWER, FAST, Scripted, asked

ACCOUNT = Account("key_1", "ada", "headrace", "grounded", "house@2")


class Told:
    """A chain of backends, and what the ledger is told of it."""

    def __init__(self, *backends: Scripted):
        spares = range(1, len(backends))
        fallbacks = tuple(
            Upstream(name=f"spare-{number}", base_url="u", model="m", rank=number, input_cost=2, output_cost=8.5) for number in spares
        )
        self.attempts: list[Attempt] = []
        settings = config.Generator(resilience=FAST, fallbacks=fallbacks)
        self.chain = Chain(lambda one: backends[one.rank], settings, Random(0), self._note)
        self.generation = msgspec.structs.replace(asked(), account=ACCOUNT, messages=(Message("user", "?" * 40),))

    def _note(self, tenant: str, account: Account, attempt: Attempt) -> None:
        assert (tenant, account) == ("t", ACCOUNT)
        self.attempts.append(attempt)

    async def run(self, generation: Generation | None = None) -> None:
        async for _ in self.chain.stream(generation or self.generation):
            pass


async def test_both_attempts_of_a_failover_are_told_once_each() -> None:
    told = Told(Scripted(breaks=20), Scripted())
    await told.run()
    first, second = told.attempts
    assert (first.backend, first.outcome, first.prompt_tokens, first.nano_cost) == ("primary", "backend_error", 10, 0)
    assert 0 < first.completion_tokens < 20
    assert second == Attempt("spare-1", OK, 7, 9, 1000 * 2 * 7 + 8500 * 9)


async def test_a_backend_that_never_answered_has_used_nothing() -> None:
    told = Told(Scripted(breaks=0, error=Unreachable("no")), Scripted(breaks=0, error=BackendFailed("no")), Scripted())
    await told.run()
    outcomes = [(one.outcome, one.prompt_tokens, one.completion_tokens) for one in told.attempts]
    assert outcomes == [("backend_unreachable", 0, 0), ("backend_error", 0, 0), (OK, 7, 9)]


async def test_a_reader_that_leaves_is_told_of_with_what_was_heard() -> None:
    told = Told(Scripted())
    async with aclosing(told.chain.stream(told.generation)) as pieces:
        async for _ in pieces:
            break
    assert told.attempts == [Attempt("primary", STOPPED, 10, 1)]


async def test_an_answer_that_fails_for_good_is_told_of() -> None:
    told = Told(Scripted(breaks=len(ANSWER) // 2))
    with pytest.raises(HeadraceError):
        await told.run(
            msgspec.structs.replace(told.generation, sampling=msgspec.structs.replace(told.generation.sampling, json_object=True))
        )
    assert [one.outcome for one in told.attempts] == ["backend_error"]
