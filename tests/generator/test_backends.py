"""Calls to an OpenAI-compatible backend, against the simulator."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from deployments.core import config
from deployments.core.errors import BackendFailed, DeadlineExceeded, HeadraceError, InvalidRequest, Overloaded
from deployments.core.types import Generation, LogRef, Message, Sampling
from deployments.generator.backends import Backend
from tests.fakes import until
from tests.loadtest.conftest import Simulator

QUESTION = (Message("user", "Hi"),)
WORDS = " ".join(f"w{i}" for i in range(20))


@pytest.fixture
async def backend(upstream: Simulator) -> AsyncIterator[Backend]:
    backend = make(upstream.url)
    yield backend
    await backend.close()


def generation(sampling: Sampling, deadline_s: float, messages: tuple[Message, ...] = QUESTION) -> Generation:
    return Generation(LogRef("r", "t", (), record=False), "default", messages, sampling, (), (), deadline_s)


def make(url: str, model: str = "sim") -> Backend:
    return Backend(url, "key", model, config.Generator(first_token_timeout_s=0.5, inter_token_timeout_s=0.3))


async def read(backend: Backend, sampling: Sampling | None = None, deadline_s: float = 5) -> str:
    pieces = [piece async for piece in backend.stream(generation(sampling or Sampling(), deadline_s))]
    assert pieces[-1].done
    return "".join(piece.text for piece in pieces)


async def failure(url: str, model: str, deadline_s: float = 5) -> tuple[type[HeadraceError], str]:
    backend = make(url, model)
    text: list[str] = []
    try:
        async for piece in backend.stream(generation(Sampling(), deadline_s)):
            text.append(piece.text)  # noqa: PERF401 - what came before the failure counts
    except HeadraceError as error:
        return type(error), "".join(text)
    finally:
        await backend.close()
    raise AssertionError("nothing failed")


async def test_an_answer_comes_whole_and_in_order(backend: Backend) -> None:
    assert (await read(backend)).split() == WORDS.split()


async def test_sampling_is_passed_on(backend: Backend) -> None:
    assert len((await read(backend, Sampling(max_tokens=3))).split()) == 3


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("error=503", Overloaded),
        ("error=429", Overloaded),
        ("error=500", BackendFailed),
        ("error=400", InvalidRequest),
        ("error=401", BackendFailed),
        ("hang", DeadlineExceeded),
    ],
)
async def test_a_refusal_is_an_error_before_any_text(upstream: Simulator, fault: str, error: type[HeadraceError]) -> None:
    assert await failure(upstream.url, f"sim@{fault}") == (error, "")


@pytest.mark.parametrize(("fault", "error"), [("cut=5", BackendFailed), ("stall=5", DeadlineExceeded), ("malformed=5", BackendFailed)])
async def test_a_break_comes_after_the_text_before_it(upstream: Simulator, fault: str, error: type[HeadraceError]) -> None:
    kind, text = await failure(upstream.url, f"sim@{fault}")
    assert kind is error
    assert text.split() == WORDS.split()[: len(text.split())]
    assert 1 <= len(text.split()) <= 6


async def test_the_deadline_ends_an_answer_that_goes_on(upstream: Simulator) -> None:
    kind, text = await failure(upstream.url, "sim@tokens=1000", deadline_s=0.3)
    assert kind is DeadlineExceeded
    assert text


async def test_an_unreachable_backend_is_our_load_not_the_callers_fault() -> None:
    assert await failure("http://127.0.0.1:9/v1", "sim") == (Overloaded, "")


async def test_closing_the_iterator_ends_the_generation(upstream: Simulator) -> None:
    backend = make(upstream.url, "sim@tokens=2000")
    async with aclosing(backend.stream(generation(Sampling(), 60, (Message("user", "[[marker:closing]]"),)))) as pieces:
        async for piece in pieces:
            if piece.text:
                break
    ended = await asyncio.to_thread(upstream.entry, "closing")
    assert ended["tokens_sent"] < 2000
    await until(lambda: upstream.stats()["open"], equals=0)
    await backend.close()
