"""One model call, from the backend's first piece to the log's last text."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from contextlib import aclosing

from deployments.core.errors import HeadraceError, StreamInterrupted
from deployments.core.log import Writer
from deployments.core.outbox import Outbox
from deployments.core.ports import Relay
from deployments.core.types import Called, Citation, Generation, Logprob, Outcome, Reason, Usage
from deployments.generator.backends import Backend
from deployments.generator.resumed import Resumed
from deployments.generator.stops import Stops


class Relays:
    """Runs generations: text goes from the backend through the relay filter into the log."""

    def __init__(self, backend: Backend, outbox: Outbox, filters: Callable[[Generation], Relay]):
        self._backend = backend
        self._outbox = outbox
        self._filters = filters
        self._running: dict[str, asyncio.Task[object]] = {}

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
        if any(isinstance(delta, Called) for delta in generation.log.written):
            raise StreamInterrupted("the call of a function broke off")
        filters, stops, chunks = self._filters(generation), Stops(generation.sampling.stop), 0
        relay = Resumed(filters, generation.log.written) if generation.log.next_seq else filters
        reason, usage, pieces = None, None, self._backend.stream(generation)
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    reason, usage, chunks = piece.reason or reason, piece.usage or usage, chunks + piece.chunks
                    if piece.text:
                        _put(writer, relay.feed(stops.feed(piece.text)), piece.logprobs)
                    for call in piece.calls:
                        writer.call(call.index, call.id, call.name, call.arguments)
                    if stops.stopped:
                        reason = "stop"
                        break
                    if piece.text and not reason:
                        await self._outbox.beat()
            _put(writer, relay.feed(stops.flush()) if generation.sampling.stop else [])
            _put(writer, relay.flush())
        except HeadraceError as error:
            if writer.next_seq == generation.log.next_seq and not writer.waiting:
                raise
            with contextlib.suppress(HeadraceError):
                await writer.drain()
            raise StreamInterrupted(f"the answer broke off: {error.message}", code=_code(error)) from error
        await writer.drain()
        return Outcome(writer.next_seq, _reason(reason), usage or _counted(generation, chunks))


def _reason(told: str | None) -> Reason:
    return told if told in ("length", "content_filter", "tool_calls") else "stop"


def _counted(generation: Generation, chunks: int) -> Usage:
    """What a call took whose backend was not heard to its end: roughly what went in, and the events that came out."""
    return Usage(sum(len(message.content) for message in generation.messages) // 4, chunks)


def _code(error: HeadraceError) -> str:
    return error.wire_code if error.wire_code in ("fenced", "deadline_exceeded") else StreamInterrupted.code


def _put(writer: Writer, pieces: list[str | Citation], logprobs: Sequence[Logprob] = ()) -> None:
    for piece in pieces:
        if isinstance(piece, str):
            writer.text(piece, logprobs)
            logprobs = ()
        else:
            writer.cite(piece)
