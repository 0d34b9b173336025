"""Two calls for one answer, where the first lets itself be waited for (Dean and Barroso, The Tail at Scale, 2013: hedged requests)."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from deployments.generator.sse import Piece

_AHEAD = 64
"""Pieces that a call may be ahead of its reader."""


async def hedged(first: AsyncGenerator[Piece], after_s: float, second: Callable[[], AsyncGenerator[Piece] | None]) -> AsyncGenerator[Piece]:
    """The pieces of the call that speaks first; the second is begun where the first has said nothing after so many seconds.

    The other is closed. One that fails leaves the word to the other; raises what the last one of them raised.
    """
    lanes = [Lane(first)]
    try:
        if not await _spoke(lanes, after_s) and (other := second()):
            lanes.append(Lane(other))
        winner = await _winner(lanes)
        for lane in lanes:
            if lane is not winner:
                await lane.close()
        while piece := await winner.next():
            yield piece
    finally:
        for lane in lanes:
            await lane.close()


class Lane:
    """A call that is read by a task of its own, so that two can be waited for at once."""

    def __init__(self, pieces: AsyncGenerator[Piece]):
        self.spoke = asyncio.Event()
        """Set once it has said something, or ended."""
        self.error: Exception | None = None
        self._queue = asyncio.Queue[Piece | None](_AHEAD)
        self._task = asyncio.create_task(self._read(pieces))

    async def next(self) -> Piece | None:
        """The next piece; None behind the last. Raises what the call raised."""
        piece = await self._queue.get()
        if piece is None and self.error:
            raise self.error
        return piece

    async def close(self) -> None:
        """End the call."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _read(self, pieces: AsyncGenerator[Piece]) -> None:
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    if piece.text or piece.calls or piece.done:
                        self.spoke.set()
                    await self._queue.put(piece)
        except Exception as error:  # whatever it is, the reader has to be told
            self.error = error
        self.spoke.set()
        await self._queue.put(None)


async def _spoke(lanes: list[Lane], within_s: float | None) -> bool:
    """Wait until one of them has spoken or ended; False where none has in time."""
    waiting = [asyncio.create_task(lane.spoke.wait()) for lane in lanes]
    try:
        done, _ = await asyncio.wait(waiting, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        return bool(done)
    finally:
        for task in waiting:
            task.cancel()


async def _winner(lanes: list[Lane]) -> Lane:
    """The one that has spoken first, or the last to fail where all do."""
    left = list(lanes)
    while True:
        await _spoke(left, None)
        spoken = [lane for lane in left if lane.spoke.is_set()]
        if well := [lane for lane in spoken if lane.error is None]:
            return well[0]
        left = [lane for lane in left if lane not in spoken]
        if not left:
            return spoken[-1]
