"""A timeout that may be put off thousands of times a second: putting it off is one assignment, the timer looks only when it fires."""

import asyncio
from types import TracebackType


class Patience:
    """Cancels the body of `async with` when the loop's clock passes `until`, and raises TimeoutError instead; `until` may be moved.

    Moving it nearer takes effect when the timer fires next, or at once by `sooner`. `never` stands for no limit.
    """

    never = float("inf")

    def __init__(self, until: float):
        self.until = until
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[object] | None = None
        self._expired = False

    async def __aenter__(self) -> "Patience":
        self._task = asyncio.current_task()
        self._look()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._timer:
            self._timer.cancel()
        if self._expired and self._task and self._task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def sooner(self, until: float) -> None:
        """Move `until` nearer, with effect at once."""
        self.until = until
        if self._timer:
            self._timer.cancel()
        self._look()

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        if self.until == self.never:
            self._timer = loop.call_later(1, self._look)
        elif loop.time() < self.until:
            self._timer = loop.call_at(self.until, self._look)
        elif self._task:
            self._expired = True
            self._task.cancel()
