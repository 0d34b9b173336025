"""Background responses: the same flow, run by a worker, into a log that anybody may follow."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec

from deployments.core.canaries import in_force
from deployments.core.config import Settings
from deployments.core.errors import HeadraceError, StreamInterrupted
from deployments.core.jobs import EPOCHS_PER_LEASE, Job
from deployments.core.lease import BACKGROUND
from deployments.core.log import Writer, fenced
from deployments.core.responses import ENDED, StoredResponse
from deployments.core.run import Answers, Keep, Run
from deployments.core.store import Store
from deployments.core.timings import record, turning
from deployments.core.traces import Traces, trace
from deployments.core.types import Delta, Failed, Last, LogRef, Turn
from deployments.gateway.events import encoder, last_of
from deployments.worker.work import Means, Reason

_REWRITE_S = 1.0
"""A writer that is alive writes a lost log again within a tick or two of Valkey's return."""

_decode = msgspec.msgpack.Decoder(Turn).decode


@dataclass(frozen=True)
class Respond:
    """Answers a stored response; implements the worker's `Handles`."""

    settings: Settings
    flow: Answers

    @property
    def at_once(self) -> int:
        """Most of an answer's time is spent waiting for the model."""
        return self.settings.worker.respond_at_once

    @property
    def lease_s(self) -> float:
        """Short, because somebody waits."""
        return self.settings.worker.respond_lease_s

    async def run(self, means: Means, job: Job) -> None:
        """Take the log over, go on where it ends, keep the outcome, and end the job.

        A crash at any point leaves a log that the next attempt goes on with, or an outcome in SQL whose log it only has to end.
        """
        await means.hub.ready(self.settings.log.stall_s)
        ref = LogRef(job.subject, job.tenant, (means.hub.channel,), record=True, shared=True, epoch=job.fence * EPOCHS_PER_LEASE)
        with means.hub.tape(job.subject) as tape, means.outbox.writer(ref) as writer:
            try:
                if job.attempt > 1:
                    await _rewritten(means, ref)
                await writer.seize()
                tape.recall(writer.written)
                await self._go_on(means, job, Run(writer, tape, means.store, _keeper(means, job), awaited=False))
                await writer.drain()
            except StreamInterrupted as error:
                if error.wire_code != fenced().wire_code:
                    raise
                return  # its owner has cancelled it, or another worker has taken it over
        async with means.store.jobs.finishing(job):
            pass

    async def give_up(self, means: Means, job: Job, code: Reason, message: str) -> None:
        """End the response, failed, with what has been written of it."""
        ref = LogRef(job.subject, job.tenant, (), record=True, shared=True, epoch=job.fence * EPOCHS_PER_LEASE)
        with means.outbox.writer(ref) as writer:
            await writer.seize()
            stored = await means.store.of(job.principal).responses.get(job.subject)
            if stored.status in ENDED:
                _end(writer, stored)
            else:
                last = writer.failed(HeadraceError(message))
                await _keeper(means, job)((*writer.written, last))
                writer.end(last)
            await writer.drain()
        async with means.store.jobs.finishing(job, "failed", code):
            pass

    async def lost(self, means: Means, job: Job) -> None:
        """Whoever called it off or took it over has fenced the log off as well."""

    async def _go_on(self, means: Means, job: Job, run: Run) -> None:
        """Answer what is not answered, or end the log of what is."""
        responses = means.store.of(job.principal).responses
        stored = await responses.get(job.subject)
        if stored.status in ENDED:
            _end(run.writer, stored)
            return
        turn = _decode(await responses.turn(job.subject))
        if job.attempt == 1 and turn.choices:  # a later one goes on with what was begun
            turn = await _current(means.store, turn)
        want = await means.gate.want(turn, BACKGROUND, requests=0)
        async with means.gate.admit(turn.principal, want) as lease:
            lease.tape = run.tape
            await lease.turn()  # waiting for it is no part of the answer's deadline
            await responses.begin(job.subject, _begun(stored), job)
            with turning(turn, "consumer"):
                await self.flow.answer(turn, replace(run, slot=lease))
            last = run.writer.written[-1] if run.writer.written else None
            outcome = last.code if isinstance(last, Failed) else "ok" if isinstance(last, Last) else "cut"
            took_s, traces = run.timings.age_s, Traces(means.store, self.settings.telemetry)
            record(turn, run.timings, outcome, None, took_s)
            if traces.wants(turn.id):
                traces.note(trace(turn, run.timings, run.writer.written, turn.created, outcome, None, took_s))
                await traces.flush()


async def _current(store: Store, turn: Turn) -> Turn:
    """The turn without what was picked by canaries that have ended while it waited."""
    async with store.session() as session:
        open_ = {one.id for one in await in_force(session)}
    return msgspec.structs.replace(turn, choices=tuple(one for one in turn.choices if not one.canary or one.canary in open_))


async def _rewritten(means: Means, ref: LogRef) -> None:
    """Give a writer that may still be alive the time to write its log again, where Valkey has just lost it.

    Where nobody does, the answer begins anew, and a reader who goes on with the one before would read parts of both.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + _REWRITE_S
    while loop.time() < until and not await means.hub.recorded(ref):
        await asyncio.sleep(_REWRITE_S / 20)


def _keeper(means: Means, job: Job) -> Keep:
    responses = means.store.of(job.principal).responses

    async def keep(log: Sequence[Delta]) -> None:
        events = encoder(await responses.get(job.subject))
        events.start()
        events.feed(log)
        await responses.finish(job.subject, events.status, events.body(), events.outputs(), job)

    return keep


def _begun(stored: StoredResponse) -> bytes:
    return msgspec.json.encode(msgspec.json.decode(stored.body) | {"status": "in_progress"})


def _end(writer: Writer, stored: StoredResponse) -> None:
    """Write the last delta of a response that is kept already, where a crash came between."""
    if not writer.written or not isinstance(writer.written[-1], Last):
        writer.end(last_of(stored, len(writer.written)))
