"""One answer over several backends: whatever breaks off where, its text is that of an undisturbed one, or it fails."""

from collections.abc import AsyncGenerator
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.core import config
from deployments.core.errors import BackendFailed, DeadlineExceeded, HeadraceError, InvalidRequest, Overloaded, StreamInterrupted
from deployments.core.models import Model
from deployments.core.sections import Contract, Resilience, Upstream
from deployments.core.types import Generation, LogRef, Message, Sampling, Text, Usage
from deployments.generator.chain import Chain
from deployments.generator.sse import CallPiece, Piece

ANSWER = "The headrace brings the water from the weir, over forty metres, to the wheel of the mill. Ünïcode, too. "
FAST = Resilience(backoff_s=0.001, longest_backoff_s=0.002, spare_retries=1000, most_retries=1000, failures=1000, window=1000, attempts=9)


class Scripted:
    """A backend that writes its text in pieces, and breaks off where it is told to."""

    def __init__(self, text: str = ANSWER, breaks: int | None = None, error: HeadraceError | None = None, seed: int = 0):
        self._text, self._breaks, self._error, self._random = text, breaks, error or BackendFailed("broke"), Random(seed)
        self.shown: list[str] = []

    async def stream(self, generation: Generation, said: str, last: float) -> AsyncGenerator[Piece]:
        self.shown.append(said)
        assert self._text.startswith(said)
        at, end = len(said), len(self._text) if self._breaks is None else len(said) + self._breaks
        while at < min(end, len(self._text)):
            size = min(self._random.randint(1, 9), end - at)
            yield Piece(self._text[at : at + size], chunks=1)
            at += size
        if self._breaks is not None:
            raise self._error
        yield Piece(reason="stop")
        yield Piece(usage=Usage(7, 9), done=True)

    async def close(self) -> None:
        """Nothing is open."""


def asked(**sampling: bool) -> Generation:
    log = LogRef("r", "t", (), record=False)
    return Generation(log, (Message("user", "?"),), Sampling(**sampling), (), (), 5)  # pyright: ignore[reportArgumentType]


async def run(backends: list[Scripted], generation: Generation, contract: Contract = "continue") -> list[Piece]:
    fallbacks = tuple(Upstream(name=str(number), base_url="u", model="m", rank=number) for number in range(1, len(backends)))
    settings = config.Generator(resilience=FAST, fallbacks=fallbacks, on_break=contract)
    chain = Chain(lambda one: backends[one.rank], settings, Random(0))
    return [piece async for piece in chain.stream(generation)]


def text(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


@given(
    st.lists(st.integers(0, len(ANSWER)), min_size=1, max_size=5),
    st.sampled_from(["continue", "restart"]),
    st.sampled_from([BackendFailed("broke"), DeadlineExceeded("stalled"), Overloaded("busy")]),
    st.integers(0, 99),
)
async def test_wherever_backends_break_off_nothing_is_lost_or_said_twice(
    breaks: list[int], contract: Contract, error: HeadraceError, seed: int
) -> None:
    backends = [*(Scripted(breaks=at, error=error, seed=seed + at) for at in breaks), Scripted(seed=seed)]
    pieces = await run(backends, asked(), contract)
    assert text(pieces) == ANSWER
    assert pieces[-1].done
    assert sum(piece.seam is not None for piece in pieces) <= len(breaks)
    assert (pieces[0].seam is None) or breaks[0] == 0


async def test_a_seam_tells_why_and_what_the_next_backend_was_shown() -> None:
    pieces = await run([Scripted(breaks=20, error=DeadlineExceeded("stalled")), Scripted()], asked())
    (seam,) = [piece.seam for piece in pieces if piece.seam]
    assert (seam.code, seam.shown) == ("deadline_exceeded", ANSWER[:20])
    pieces = await run([Scripted(breaks=20), Scripted()], asked(), "restart")
    (seam,) = [piece.seam for piece in pieces if piece.seam]
    assert (seam.code, seam.shown) == ("backend_error", "")


async def test_a_backend_that_begins_anew_and_says_something_else_ends_the_answer() -> None:
    for other in ("The tailrace leads it away.", ANSWER[:10]):
        with pytest.raises(StreamInterrupted):
            await run([Scripted(breaks=20), Scripted(other)], asked(), "restart")


@pytest.mark.parametrize(("contract", "json"), [("fail", False), ("continue", True), ("restart", True)])
async def test_an_answer_that_may_not_be_gone_on_with_fails(contract: Contract, json: bool) -> None:
    backends = [Scripted(breaks=20), Scripted()]
    with pytest.raises(BackendFailed):
        await run(backends, asked(json_object=json), contract)
    assert backends[1].shown == []
    assert text(await run([Scripted(breaks=0), Scripted()], asked(json_object=json), contract)) == ANSWER


async def test_the_call_of_a_function_is_not_made_twice() -> None:
    class Calling(Scripted):
        async def stream(self, generation: Generation, said: str, last: float) -> AsyncGenerator[Piece]:
            yield Piece(calls=(CallPiece(0, "c", "f", "{"),))
            raise BackendFailed("broke")

    with pytest.raises(BackendFailed):
        await run([Calling(), Scripted()], asked())


async def test_an_answer_of_which_only_the_end_of_the_stream_is_missing_is_whole() -> None:
    class Endless(Scripted):
        async def stream(self, generation: Generation, said: str, last: float) -> AsyncGenerator[Piece]:
            yield Piece(ANSWER)
            yield Piece(reason="stop")
            raise BackendFailed("no [DONE]")

    assert text(await run([Endless(), Scripted()], asked())) == ANSWER


async def test_a_log_that_was_begun_is_gone_on_with_from_the_first_attempt() -> None:
    before = asked()
    log = LogRef("r", "t", (), record=False, written=(Text(0, ANSWER[:30]),))
    generation = Generation(log, before.messages, before.sampling, (), (), 5)
    backends = [Scripted(breaks=10), Scripted()]
    assert text(await run(backends, generation)) == ANSWER[30:]
    assert [backend.shown for backend in backends] == [[ANSWER[:30]], [ANSWER[:40]]]


async def test_what_the_caller_did_wrong_is_told_at_once() -> None:
    backends = [Scripted(breaks=0, error=InvalidRequest("wrong")), Scripted()]
    with pytest.raises(InvalidRequest):
        await run(backends, asked())
    assert backends[1].shown == []


async def test_a_call_of_a_model_of_the_catalogue_asks_its_backends_alone_and_goes_by_its_contract() -> None:
    broken, spare, own = Scripted(breaks=20), Scripted(), Scripted(breaks=20)
    fallbacks = (Upstream(name="spare", base_url="u", model="m"),)
    settings = config.Generator(resilience=FAST, fallbacks=fallbacks, on_break="fail")
    by_name = {"primary": broken, "spare": spare, "own": own}
    chain = Chain(lambda one: by_name[one.name], settings, Random(0))
    listed: Any = {"name": "own", "base_url": "http://own/v1", "model": "m"}
    model = Model(name="mine", backends=(listed, "spare"), on_break="continue")
    pieces = [piece async for piece in chain.stream(msgspec.structs.replace(asked(), model=model))]
    assert text(pieces) == ANSWER
    assert (own.shown, spare.shown, broken.shown) == ([""], [ANSWER[:20]], [])
    with pytest.raises(BackendFailed):
        [piece async for piece in chain.stream(asked())]
