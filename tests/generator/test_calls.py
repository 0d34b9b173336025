"""The calls of functions, as backends of different habits stream them."""

from itertools import count

import pytest

from deployments.core.errors import BackendFailed
from deployments.generator.calls import MAX_CALLS, Calls
from deployments.generator.sse import CallPiece


def read(*pieces: CallPiece) -> list[tuple[int, str | None, str | None, str]]:
    numbers = count()
    calls = Calls(lambda: f"made_{next(numbers)}")
    return [(call.index, call.id, call.name, call.arguments) for piece in pieces for call in calls.feed([piece])]


TWO = [(0, "a", "f", ""), (0, None, None, "{}"), (1, "b", "g", ""), (1, None, None, "1")]


@pytest.mark.parametrize(
    "pieces",
    [
        [CallPiece(0, "a", "f", ""), CallPiece(0, None, None, "{}"), CallPiece(1, "b", "g", ""), CallPiece(1, None, None, "1")],
        [CallPiece(0, "a", "f", ""), CallPiece(0, "a", "f", "{}"), CallPiece(1, "b", "g", ""), CallPiece(1, "b", "g", "1")],
        [CallPiece(0, "a", "f", ""), CallPiece(0, "", "", "{}"), CallPiece(0, "b", "g", ""), CallPiece(0, None, None, "1")],
        [CallPiece(3, "a", "f", ""), CallPiece(3, None, None, "{}"), CallPiece(-1, "b", "g", ""), CallPiece(-1, None, None, "1")],
    ],
    ids=["as OpenAI does", "id and name in each piece", "all numbered 0", "other numbers"],
)
def test_every_habit_reads_the_same(pieces: list[CallPiece]) -> None:
    assert read(*pieces) == TWO


def test_a_call_without_an_id_gets_one() -> None:
    assert read(CallPiece(0, None, "f", "{"), CallPiece(0, None, None, "}")) == [(0, "made_0", "f", "{"), (0, None, None, "}")]


def test_what_is_no_call_is_a_typed_error() -> None:
    with pytest.raises(BackendFailed):
        read(CallPiece(0, "a", None, "{}"))
    with pytest.raises(BackendFailed):
        read(*(CallPiece(index, f"a{index}", "f", "") for index in range(MAX_CALLS + 1)))
