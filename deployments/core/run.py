"""What an answer is run with, whoever runs it: the gateway while its client waits, or a worker."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from deployments.core.follow import Tape
from deployments.core.log import Writer
from deployments.core.store import Store
from deployments.core.types import Delta, Turn, Vector

Keep = Callable[[Sequence[Delta]], Awaitable[None]]
"""Keeps the whole log of an answer in SQL, its last delta included; it is called before anybody sees that delta."""


async def forget(log: Sequence[Delta]) -> None:
    """Keep nothing."""


@dataclass(frozen=True)
class Run:
    """One run of a turn: the log it writes, the tape of that log, the database, and what keeps the outcome.

    `vector` is the embedding of the question where it is known already.
    """

    writer: Writer
    tape: Tape
    store: Store
    keep: Keep = forget
    vector: Vector | None = None


class Answers(Protocol):
    """The flow: what happens to a turn."""

    async def answer(self, turn: Turn, run: Run) -> None:
        """Write the whole response of a turn to its log, however it ends; raises CancelledError, and what fenced the log off."""
        ...
