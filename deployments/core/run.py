"""What an answer is run with, whoever runs it: the gateway while its client waits, or a worker."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol

from deployments.core.follow import Tape
from deployments.core.log import Writer
from deployments.core.store import Store
from deployments.core.timings import Timings
from deployments.core.types import Delta, Message, Route, Turn, Usage, Vector

Keep = Callable[[Sequence[Delta]], Awaitable[None]]
"""Keeps the whole log of an answer in SQL, its last delta included; it is called before anybody sees that delta."""


async def forget(log: Sequence[Delta]) -> None:
    """Keep nothing."""


class Slot(Protocol):
    """The right to ask a backend: entering waits for its turn, and raises HeadraceError where it does not come or is over."""

    async def __aenter__(self) -> object:
        """Wait."""
        ...

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool | None:
        """End; what the limits cut short is raised as such."""
        ...

    def reads(self, messages: Sequence[Message]) -> None:
        """Note what the backend is given to read."""
        ...

    def spent(self, usage: Usage) -> None:
        """Note what a call of the backend used that has ended."""
        ...

    def routed(self, route: Route) -> None:
        """Have the caller told where the turn goes."""
        ...


class Open:
    """A slot that is always there, for work that nobody meters."""

    async def __aenter__(self) -> None:
        """Go ahead."""

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End."""

    def reads(self, messages: Sequence[Message]) -> None:
        """Nothing is counted."""

    def spent(self, usage: Usage) -> None:
        """Nothing is counted."""

    def routed(self, route: Route) -> None:
        """Nobody is told."""


@dataclass(frozen=True)
class Run:
    """One run of a turn: the log it writes, the tape of that log, the database, what keeps the outcome, the right to a backend,
    and where its time goes.

    `vector` is the embedding of the question where it is known already. An answer that is `awaited` has a client who waits for its first
    word.
    """

    writer: Writer
    tape: Tape
    store: Store
    keep: Keep = forget
    slot: Slot = field(default_factory=Open)
    timings: Timings = field(default_factory=Timings)
    vector: Vector | None = None
    awaited: bool = True


class Answers(Protocol):
    """The flow: what happens to a turn."""

    async def answer(self, turn: Turn, run: Run) -> None:
        """Write the whole response of a turn to its log, however it ends; raises CancelledError, and what fenced the log off."""
        ...
