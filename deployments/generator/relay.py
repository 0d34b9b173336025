"""One model call, from the backend's first piece to the log's last text."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from contextlib import aclosing

from deployments.core.errors import HeadraceError, InvalidOutput, StreamInterrupted
from deployments.core.log import Writer
from deployments.core.outbox import Outbox
from deployments.core.ports import Relay
from deployments.core.types import Generation, Outcome
from deployments.core.window import Window
from deployments.generator.answer import Answer
from deployments.generator.chain import Chain
from deployments.generator.structured import structured

LOOK_BACK_S = 10
"""Calls by which a replica tells how long its callers wait."""


class Relays:
    """Runs generations: text goes from the backends through the relay filter into the log."""

    def __init__(self, chain: Chain, outbox: Outbox, filters: Callable[[Generation], Relay]):
        self._chain = chain
        self._outbox = outbox
        self._filters = filters
        self._running: dict[str, asyncio.Task[object]] = {}
        self.ttft_s = Window(LOOK_BACK_S)

    def stop(self, response_id: str) -> None:
        """End a generation that nobody follows any more."""
        if task := self._running.get(response_id):
            task.cancel()

    async def generate(self, generation: Generation) -> Outcome:
        """Write one answer into its log; the contract is that of `core.ports.Generates`."""
        response_id = generation.log.response_id
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - there is always one inside a coroutine
        self._running[response_id] = task
        try:
            with self._outbox.writer(generation.log) as writer:
                return await self._write(generation, writer)
        finally:
            self._running.pop(response_id, None)

    async def _write(self, generation: Generation, writer: Writer) -> Outcome:
        answer, began_s, begun = Answer(generation, self._filters(generation), writer), time.monotonic(), False
        pieces = structured(self._chain.stream, generation)
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    if not begun and (piece.text or piece.calls):
                        begun, now_s = True, time.monotonic()
                        self.ttft_s.feed(now_s, now_s - began_s)
                    answer.take(piece)
                    if answer.stopped:
                        break
                    if (piece.text or piece.calls) and not answer.over:
                        await self._outbox.beat()
            answer.end()
        except HeadraceError as error:
            if writer.next_seq == generation.log.next_seq and not writer.waiting:
                raise
            with contextlib.suppress(HeadraceError):
                await writer.drain()
            raise StreamInterrupted(f"the answer broke off: {error.message}", code=_code(error)) from error
        await writer.drain()
        return answer.outcome()


def _code(error: HeadraceError) -> str:
    return error.wire_code if error.wire_code in ("fenced", "deadline_exceeded", InvalidOutput.code) else StreamInterrupted.code
