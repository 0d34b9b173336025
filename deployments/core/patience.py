"""A timeout that may be put off thousands of times a second: putting it off is one assignment, the timer looks only when it fires."""

import asyncio
from types import TracebackType


class Patience:
    """Cancels the body of `async with` when the loop's clock passes `until`, and raises TimeoutError instead; `until` may be moved.

    `never` stands for no limit. A generator sets it before it yields: whoever reads it takes its own time, and would be cancelled in its
    place.
    """

    never = float("inf")

    def __init__(self, until: float):
        self._until = until
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[object] | None = None
        self._expired = False

    @property
    def until(self) -> float:
        """When the body is cancelled, by the loop's clock."""
        return self._until

    @until.setter
    def until(self, until: float) -> None:
        self._until = until
        if self._task and (self._timer is None or until < self._timer.when()):
            self._look()

    async def __aenter__(self) -> "Patience":
        self._task = asyncio.current_task()
        self._look()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        task, self._task = self._task, None
        if self._timer:
            self._timer.cancel()
        if self._expired and task and task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def _look(self) -> None:
        if self._timer:
            self._timer.cancel()
        loop, self._timer = asyncio.get_running_loop(), None
        if self._until == self.never:
            return  # until another time is set
        if loop.time() < self._until:
            self._timer = loop.call_at(self._until, self._look)
        elif self._task and not self._expired:
            self._expired = True
            self._task.cancel()
