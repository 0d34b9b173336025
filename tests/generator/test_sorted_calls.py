"""Calls of the caller's functions and of tools that headrace runs are told apart; strict arguments fit their schema."""

import itertools

import msgspec
import pytest

from deployments.core.config import Log
from deployments.core.errors import InvalidOutput
from deployments.core.log import Writer
from deployments.core.outbox import Outbox
from deployments.core.tools import OWN, Ran, Selection, Tool, Toolbox, ToolCall
from deployments.core.types import Called, Citation, Cited, Delta, Generation, LogRef, Message, Opened, Sampling, Text
from deployments.core.valkey import connect
from deployments.generator.answer import Answer
from deployments.generator.calls import Calls, Sorted
from deployments.generator.progress import Progress
from deployments.generator.sse import CallPiece, Piece
from pipeline.citations import Verbatim
from tests.generator.test_resumed import whole

THEIRS, OURS = Tool("theirs"), Tool("ours", ours=True)
STRICT = Tool("strict", None, b'{"type":"object","properties":{"n":{"type":"integer"}},"additionalProperties":false}', strict=True)
SERVED = (Selection(OWN),)


def made(toolbox: Toolbox) -> Sorted:
    numbers = itertools.count(1)
    return Sorted(toolbox, Calls(lambda: f"call_{next(numbers)}"))


def test_ours_are_gathered_and_theirs_are_shown_under_numbers_of_their_own() -> None:
    calls = made(Toolbox((THEIRS, OURS), allowed=SERVED))
    shown = calls.feed([CallPiece(0, "a", "ours", '{"x"'), CallPiece(1, "b", "theirs", "")])
    shown += calls.feed([CallPiece(0, None, None, ":1}"), CallPiece(1, None, None, "{}"), CallPiece(2, "c", "theirs", "[]")])
    assert shown == [CallPiece(0, "b", "theirs", ""), CallPiece(0, None, None, "{}"), CallPiece(1, "c", "theirs", "[]")]
    assert calls.ours == (ToolCall("a", "ours", '{"x":1}'),)


def test_what_nobody_knows_is_ours_to_refuse_where_there_are_tools_of_ours() -> None:
    for toolbox, kept in ((Toolbox((THEIRS,), allowed=SERVED), 1), (Toolbox((THEIRS,)), 0)):
        calls = made(toolbox)
        calls.feed([CallPiece(0, "a", "invented", "{}")])
        assert len(calls.ours) == kept


def test_without_parallel_calls_the_first_one_counts() -> None:
    calls = made(Toolbox((THEIRS, OURS), parallel=False, allowed=SERVED))
    assert calls.feed([CallPiece(0, "a", "theirs", "{}"), CallPiece(1, "b", "theirs", "{}"), CallPiece(2, "c", "ours", "{}")]) == [
        CallPiece(0, "a", "theirs", "{}")
    ]
    assert calls.ours == ()


@pytest.mark.parametrize(("arguments", "fits"), [('{"n":1}', True), ('{"n":"1"}', False), ('{"n":1', False), ("", False)])
def test_strict_arguments_fit_or_the_answer_has_failed(arguments: str, fits: bool) -> None:
    calls = made(Toolbox((STRICT, THEIRS)))
    calls.feed(
        [CallPiece(0, "a", "strict", arguments[:3]), CallPiece(1, "b", "theirs", "not JSON"), CallPiece(0, None, None, arguments[3:])]
    )
    if fits:
        calls.check()
    else:
        with pytest.raises(InvalidOutput, match="'strict'"):
            calls.check()


EARLIER: tuple[Delta, ...] = (
    Opened(0), Text(1, "Let me see. [1]"), Cited(2, Citation(12, 15, 1, "u", "t")), Text(3, "\n\n"),
    Ran(4, 0, "call_1", OWN, "look", "{}", "done"),
)  # fmt: skip


class Citing(Verbatim):
    """Cites the first word it is told, where it begins."""

    def feed(self, text: str) -> "list[str | Citation]":
        return [text, Citation(0, 4, 1, "u", "t")] if text else []


def generation(*more: Delta) -> Generation:
    log = LogRef("resp_1", "ours", (), record=False, written=(*EARLIER, *more))
    return Generation(log, (Message("user", "Hi"),), Sampling(), (), (), 5, toolbox=Toolbox((THEIRS,), allowed=SERVED), since=5)


async def test_a_later_call_of_the_model_is_an_answer_of_its_own_that_counts_on() -> None:
    outbox = Outbox(connect("unix:///nowhere"), Log())
    asked = generation()
    writer = Writer(asked.log, outbox)
    answer = Answer(asked, Citing(), writer)
    answer.take(Piece(text="Five", chunks=1))
    answer.end()
    written = writer.written[5:]
    assert whole(written) == ("Five", [Citation(17, 21, 1, "u", "t")])


async def test_a_later_call_that_broke_off_goes_on_behind_its_own_words() -> None:
    asked = generation(Text(5, "Five"))
    assert Progress(asked, "continue").shown == "Five"
    writer = Writer(asked.log, Outbox(connect("unix:///nowhere"), Log()))
    answer = Answer(asked, Verbatim(), writer)
    answer.take(Piece(text=" it is."))
    answer.end()
    assert whole(writer.written[5:]) == ("Five it is.", [])


async def test_the_calls_of_ours_come_back_to_the_flow_and_stand_in_no_log() -> None:
    asked = generation()
    writer = Writer(asked.log, Outbox(connect("unix:///nowhere"), Log()))
    answer = Answer(asked, Verbatim(), writer)
    answer.take(Piece(calls=(CallPiece(0, "a", "look", "{}"),), reason="tool_calls"))
    answer.end()
    assert not any(isinstance(delta, Called) for delta in writer.written)
    outcome = answer.outcome()
    assert (outcome.reason, outcome.calls) == ("tool_calls", (ToolCall("a", "look", "{}"),))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(outcome), type=type(outcome)) == outcome
