"""Where the time of one turn goes: its stages, as they began and ended."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager

import msgspec

from deployments.core.spans import NONE, Attributes, Kind, Mark, span
from deployments.core.telemetry import STAGE_DURATION, STAGE_WORK
from deployments.core.types import Message, Route, Turn

_logger = logging.getLogger("headrace.turns")

MOST = 64
"""Stages of a turn that are remembered; one with tools has many calls of the model."""


class Stage(msgspec.Struct, frozen=True):
    """One stage: when it began, in ms from the turn's beginning, how long it took, and whether it ended well."""

    stage: str
    at_ms: float
    ms: float
    outcome: str = "ok"


class Timings:
    """The stages of one turn. Those that ran side by side overlap."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self.stages: list[Stage] = []
        self.route: Route | None = None
        self.read: Sequence[Message] = ()
        """What the model was given last."""

    @property
    def age_s(self) -> float:
        """Seconds since the turn began."""
        return time.perf_counter() - self._began

    @contextlib.contextmanager
    def of(self, stage: str) -> Generator[None]:
        """Time what is done within."""
        began, outcome = time.perf_counter(), "ok"
        try:
            with span(f"headrace.{stage}"):
                yield
        except BaseException as error:
            outcome = "cancelled" if isinstance(error, asyncio.CancelledError | GeneratorExit) else "failed"
            raise
        finally:
            took = time.perf_counter() - began
            STAGE_DURATION.see(took, stage, outcome)
            self.note(stage, began - self._began, took, outcome)

    def note(self, stage: str, at_s: float, took_s: float, outcome: str = "ok") -> None:
        """Remember a stage that was timed elsewhere."""
        if len(self.stages) < MOST:
            self.stages.append(Stage(stage, round(at_s * 1000, 2), round(took_s * 1000, 2), outcome))

    def covered_s(self, until_s: float) -> float:
        """Seconds up to a moment of the turn that some stage accounts for; what ran side by side counts once."""
        covered = reached = 0.0
        for one in sorted(self.stages, key=lambda one: one.at_ms):
            begin, end = max(one.at_ms / 1000, reached), min((one.at_ms + one.ms) / 1000, until_s)
            if end > begin:
                covered, reached = covered + end - begin, end
        return covered


def turning(turn: Turn, kind: Kind = "server") -> AbstractContextManager[Mark]:
    """The span of a whole turn, below that of its client."""
    about = {
        "gen_ai.operation.name": "invoke_workflow",
        "gen_ai.provider.name": "headrace",
        "gen_ai.request.model": turn.model,
        "gen_ai.response.id": turn.id,
        "gen_ai.conversation.id": turn.conversation_id or "",
        "headrace.tenant": turn.principal.tenant,
    }
    return span("invoke_workflow headrace", about, kind=kind, parent=turn.trace, root=True)


def record(turn: Turn, timings: Timings, outcome: str, first_s: float | None, took_s: float) -> None:
    """Write a turn's line of the log: ids, numbers, and nothing of what was said."""
    if not _logger.isEnabledFor(logging.INFO):
        return
    _logger.info(
        "turn %s: %s after %.0f ms",
        turn.id,
        outcome,
        1000 * took_s,
        extra={
            "response_id": turn.id,
            "tenant": turn.principal.tenant,
            "model": turn.model,
            "outcome": outcome,
            "first_ms": None if first_s is None else round(1000 * first_s, 1),
            "ms": round(1000 * took_s, 1),
            "stages": msgspec.to_builtins(timings.stages),
        },
    )


@contextlib.contextmanager
def working(stage: str, name: str, trace: str, attributes: Attributes = NONE, *, kind: Kind = "internal") -> Generator[Mark]:
    """Time what a stage does for a turn on its own side of the call, with a span of that name below its caller's (`trace`)."""
    began = time.perf_counter()
    try:
        with span(name, attributes, kind=kind, parent=trace) as mark:
            yield mark
    finally:
        STAGE_WORK.see(time.perf_counter() - began, stage)
