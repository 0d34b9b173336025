"""The loop of a worker: lease, handle, and settle how it ended. It knows nothing of Ray, nor of what the jobs are."""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from deployments.core import config
from deployments.core.errors import NotFound, Overloaded, RateLimited
from deployments.core.follow import Hub
from deployments.core.gate import Gate
from deployments.core.jobs import Job, LeaseLost
from deployments.core.outbox import Outbox
from deployments.core.store import Store
from deployments.core.telemetry import JOB_DURATION, JOBS

_logger = logging.getLogger("headrace.worker")

_MAX_BACKOFF_S = 60
"""The longest pause before another attempt; the first is 2 s and each next one twice as long."""

_BEATS = 3
"""Signs of life per lease: two may be lost before somebody else takes the job."""

Reason = Literal["unsupported_file", "invalid_file", "server_error"]


class Rejected(Exception):
    """The job can not be done, and another attempt would not change that; `code` and message are for its owner."""

    def __init__(self, code: Reason, message: str):
        super().__init__(message)
        self.code: Reason = code


@dataclass(frozen=True)
class Means:
    """What a handler works with: the database, the response log, and admission."""

    store: Store
    hub: Hub
    outbox: Outbox
    gate: Gate


class Handles(Protocol):
    """What the jobs of one kind are."""

    @property
    def at_once(self) -> int:
        """How many of them one worker does at a time."""
        ...

    @property
    def lease_s(self) -> float:
        """How long a job stays with a worker that gives no sign of life."""
        ...

    async def run(self, means: Means, job: Job) -> None:
        """Do the job and end it; doing it twice is doing it once. Raises Rejected, LeaseLost, or NotFound where its subject is gone."""
        ...

    async def give_up(self, means: Means, job: Job, code: Reason, message: str) -> None:
        """End a job that can not be done, and take back what attempts have left outside of SQL."""
        ...

    async def lost(self, means: Means, job: Job) -> None:
        """The job was called off, or is somebody else's by now: clean up where its subject is gone."""
        ...


class Runner:
    """Does jobs, of each kind as many at once as its handler says, until it is stopped."""

    def __init__(self, means: Means, settings: config.Worker, handlers: Mapping[str, Handles]):
        self._means = means
        self._jobs = means.store.jobs
        self._settings = settings
        self._handlers = handlers
        self._running: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._woken = asyncio.Event()
        self._stopping = False

    async def run(self) -> None:
        """Work until `stop`, or until cancelled: then the jobs at hand are given back."""
        try:
            while not self._stopping:
                jobs = await self._lease()
                for job in jobs:
                    self._start(job)
                if not jobs:
                    await self._rest()
            if self._tasks:
                await asyncio.wait(self._tasks)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def busy(self) -> float:
        """How much of its room is taken, in the kind that has least: 1 is all."""
        return max((self._running[kind] / handler.at_once for kind, handler in self._handlers.items()), default=0.0)

    def wake(self) -> None:
        """Look for work now."""
        self._woken.set()

    def stop(self) -> None:
        """End `run` once the jobs at hand are done."""
        self._stopping = True
        self._woken.set()

    async def _lease(self) -> list[Job]:
        """The next jobs, of each kind as many as there is room for."""
        self._woken.clear()
        room = {kind: handler.at_once - self._running[kind] for kind, handler in self._handlers.items()}
        free = {kind: self._handlers[kind].lease_s for kind, count in room.items() if count > 0}
        if not free:
            return []
        try:
            return await self._jobs.lease_all(free, {kind: room[kind] for kind in free})
        except Exception:
            _logger.exception("can not look for work")
            return []

    def _start(self, job: Job) -> None:
        self._running[job.kind] += 1
        task = asyncio.get_running_loop().create_task(self._settle(job, self._handlers[job.kind]))
        self._tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            self._running[job.kind] -= 1
            self._woken.set()

        task.add_done_callback(ended)

    async def _rest(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.poll_s):
                await self._woken.wait()

    async def _settle(self, job: Job, handler: Handles) -> None:
        """One attempt, however it ends; raises nothing but CancelledError."""
        began = time.perf_counter()
        try:
            if job.attempt > self._settings.max_attempts:
                await handler.give_up(self._means, job, "server_error", f"{job.attempt - 1} attempts ended without a result")
            else:
                await self._attempt(job, handler)
        except asyncio.CancelledError:
            await self._jobs.release(job, counted=False)
            raise
        except LeaseLost:
            pass
        except Exception:
            _logger.exception("the end of %s %s could not be written down; its lease will end", job.kind, job.subject)
        finally:
            JOB_DURATION.see(time.perf_counter() - began, job.kind)

    async def _attempt(self, job: Job, handler: Handles) -> None:
        outcome = "cancelled"
        try:
            await self._run(job, handler)
            outcome = "done"
        except Rejected as error:
            outcome = "rejected"
            await handler.give_up(self._means, job, error.code, str(error))
        except (LeaseLost, NotFound):
            outcome = "lost"
            await handler.lost(self._means, job)
            async with self._jobs.finishing(job, "cancelled"):
                pass
        except (Overloaded, RateLimited) as error:
            outcome = "put_off"
            await self._jobs.release(job, error.retry_after_s or 1, counted=False)
        except Exception:
            outcome = "failed"
            _logger.exception("attempt %d at %s %s failed", job.attempt, job.kind, job.subject)
            if job.attempt >= self._settings.max_attempts:
                await handler.give_up(self._means, job, "server_error", "headrace failed at this; the log has the reason")
            else:
                await self._jobs.release(job, min(2**job.attempt, _MAX_BACKOFF_S))
        finally:
            JOBS.add(job.kind, outcome)

    async def _run(self, job: Job, handler: Handles) -> None:
        """Run the handler for as long as the lease is ours; raises LeaseLost once it is not."""
        running = asyncio.create_task(handler.run(self._means, job))
        beating = asyncio.create_task(self._beat(job, handler.lease_s))
        try:
            await asyncio.wait({running, beating}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            lost = not running.done()
            for task in (running, beating):
                task.cancel()
            await asyncio.wait({running, beating})
        if lost and running.cancelled():
            raise LeaseLost("the job has been called off or taken over")
        running.result()

    async def _beat(self, job: Job, lease_s: float) -> None:
        """Keep the lease; return once it is lost."""
        while True:
            await asyncio.sleep(lease_s / _BEATS)
            try:
                if not await self._jobs.extend(job, lease_s):
                    return
            except Exception:
                _logger.exception("can not extend the lease of %s %s", job.kind, job.subject)
