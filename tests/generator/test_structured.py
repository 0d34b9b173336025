"""Answers that owe JSON: what does not fit the schema is asked for once more, or fails, and is never called success."""

import pickle
from collections.abc import AsyncGenerator

import msgspec
import pytest

from deployments.core.errors import ContextTooLong, InvalidOutput
from deployments.core.shape import Schema
from deployments.core.types import Generation, LogRef, Message, Sampling, Usage
from deployments.generator.sse import CallPiece, Piece
from deployments.generator.structured import structured

DOG = msgspec.json.encode({"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]})
GOOD, WRONG = '{"age": 3}', '{"age": "three"}'
BAD = [WRONG, "", "{", "Sure! " + GOOD, GOOD + GOOD, "[" * 5000, '{"age": 3.5}', "null"]


class Rounds:
    """A model that answers each round as told, in pieces of three characters."""

    def __init__(self, *answers: str, reason: str = "stop"):
        self.answers, self.reason = list(answers), reason
        self.asked: list[Generation] = []

    async def stream(self, generation: Generation) -> AsyncGenerator[Piece]:
        said = self.answers[len(self.asked)]
        self.asked.append(generation)
        for start in range(0, len(said), 3):
            yield Piece(said[start : start + 3], chunks=1)
        yield Piece(reason=self.reason)
        yield Piece(usage=Usage(10, 4), done=True)


def generation(*, held: bool) -> Generation:
    sampling = Sampling(schema=Schema("dog", DOG, held=held))
    return Generation(LogRef("r", "t", (), record=False), (Message("user", "A dog?"),), sampling, (), (), 5)


async def answer(rounds: Rounds, *, held: bool) -> list[Piece]:
    return [piece async for piece in structured(rounds.stream, generation(held=held))]


@pytest.mark.parametrize("held", [True, False])
async def test_an_answer_that_fits_is_passed_on(held: bool) -> None:
    rounds = Rounds(GOOD)
    assert "".join(piece.text for piece in await answer(rounds, held=held)) == GOOD
    assert len(rounds.asked) == 1


@pytest.mark.parametrize("wrong", BAD)
async def test_a_held_answer_that_is_wrong_is_asked_for_once_more(wrong: str) -> None:
    rounds = Rounds(wrong, GOOD)
    (whole,) = await answer(rounds, held=True)
    assert (whole.text, whole.reason, whole.usage) == (GOOD, "stop", Usage(20, 8))
    assert rounds.asked[1].messages[1] == Message("assistant", wrong)
    assert "does not fit" in rounds.asked[1].messages[2].content
    assert rounds.asked[1].deadline_s <= 5


@pytest.mark.parametrize("wrong", BAD)
async def test_a_held_answer_that_stays_wrong_is_an_error_and_shows_nothing(wrong: str) -> None:
    rounds = Rounds(wrong, wrong)
    with pytest.raises(InvalidOutput) as error:
        await answer(rounds, held=True)
    assert len(rounds.asked) == 2
    travelled = pickle.loads(pickle.dumps(error.value))  # noqa: S301
    assert (travelled.message, travelled.read, travelled.written) == (error.value.message, 20, 8)


async def test_where_there_is_no_room_to_ask_once_more_the_answer_is_what_was_wrong() -> None:
    rounds = Rounds(WRONG)

    async def stream(asked: Generation) -> AsyncGenerator[Piece]:
        if rounds.asked:
            raise ContextTooLong("the messages are longer than the model's context")
        async for piece in rounds.stream(asked):
            yield piece

    with pytest.raises(InvalidOutput) as error:
        _ = [piece async for piece in structured(stream, generation(held=True))]
    assert (error.value.read, error.value.written) == (10, 4)


@pytest.mark.parametrize("wrong", BAD)
async def test_a_streamed_answer_that_is_wrong_never_ends_well(wrong: str) -> None:
    rounds, pieces = Rounds(wrong), list[Piece]()

    async def read() -> None:
        async for piece in structured(rounds.stream, generation(held=False)):
            pieces.append(piece)

    with pytest.raises(InvalidOutput):
        await read()
    assert all(piece.reason is None for piece in pieces)
    assert len(rounds.asked) == 1


@pytest.mark.parametrize("held", [True, False])
async def test_an_answer_that_was_cut_says_so(held: bool) -> None:
    pieces = await answer(Rounds('{"age"', reason="length"), held=held)
    assert [piece.reason for piece in pieces if piece.reason] == ["length"]


async def test_the_call_of_a_function_is_no_answer_yet() -> None:
    async def call(_: Generation) -> AsyncGenerator[Piece]:
        yield Piece(calls=(CallPiece(0, "call_1", "f", "{}"),))
        yield Piece(reason="tool_calls", done=True)

    for held in (True, False):
        pieces = [piece async for piece in structured(call, generation(held=held))]
        assert [piece.reason for piece in pieces if piece.reason] == ["tool_calls"]
