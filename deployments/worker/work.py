"""The loop of a worker: lease, handle, and settle how it ended. It knows nothing of Ray, nor of what the work is."""

import asyncio
import contextlib
import logging
from typing import Literal, Protocol

from deployments.core import config
from deployments.core.errors import NotFound, Overloaded
from deployments.core.store import Store, Work

_logger = logging.getLogger("headrace.worker")

_MAX_BACKOFF_S = 60
"""The longest pause before another attempt; the first is 2 s and each next one twice as long."""

_BEATS = 3
"""Signs of life per lease: two may be lost before somebody else takes the work."""

Reason = Literal["unsupported_file", "invalid_file", "server_error"]


class Rejected(Exception):
    """The work can not be done, and another attempt would not change that; `code` and message are for its owner."""

    def __init__(self, code: Reason, message: str):
        super().__init__(message)
        self.code: Reason = code


class Handles(Protocol):
    """What the work is."""

    async def run(self, store: Store, work: Work) -> None:
        """Do it and mark it completed; doing it twice is doing it once. Raises Rejected."""
        ...

    async def undo(self, store: Store, work: Work) -> None:
        """Take back what an attempt may have left outside of SQL."""
        ...


class Runner:
    """Does one piece of work at a time, until it is stopped."""

    def __init__(self, store: Store, settings: config.Worker, handler: Handles):
        self._store = store
        self._settings = settings
        self._handler = handler
        self._woken = asyncio.Event()
        self._stopping = False

    async def run(self) -> None:
        """Work until `stop`, or until cancelled: then the work at hand is given back."""
        while not self._stopping:
            try:
                work = await self._store.lease(self._settings.lease_s)
            except Exception:
                _logger.exception("can not look for work")
                work = None
            if work is None:
                await self._rest()
            else:
                await self._settle(work)

    def wake(self) -> None:
        """Look for work now."""
        self._woken.set()

    def stop(self) -> None:
        """End `run` once the work at hand is done."""
        self._stopping = True
        self._woken.set()

    async def _rest(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.poll_s):
                await self._woken.wait()
        self._woken.clear()

    async def _settle(self, work: Work) -> None:
        """One attempt, however it ends; raises nothing but CancelledError."""
        try:
            if work.attempt > self._settings.max_attempts:
                await self._give_up(work, "server_error", f"{work.attempt - 1} attempts ended without a result")
            else:
                await self._attempt(work)
        except asyncio.CancelledError:
            await self._store.release(work, counted=False)
            raise
        except Exception:
            _logger.exception("the end of %s in %s could not be written down; its lease will end", work.file_id, work.store_id)

    async def _attempt(self, work: Work) -> None:
        try:
            await self._run(work)
        except Rejected as error:
            await self._give_up(work, error.code, str(error))
        except NotFound:
            await self._handler.undo(self._store, work)  # the file was deleted meanwhile
        except Overloaded as error:
            await self._store.release(work, error.retry_after_s or 1, counted=False)
        except Exception:
            _logger.exception("attempt %d at %s in %s failed", work.attempt, work.file_id, work.store_id)
            if work.attempt >= self._settings.max_attempts:
                await self._give_up(work, "server_error", "headrace failed to read this file; the log has the reason")
            else:
                await self._store.release(work, min(2**work.attempt, _MAX_BACKOFF_S))

    async def _run(self, work: Work) -> None:
        """Run the handler for as long as the lease is ours; raises NotFound where the file was deleted."""
        running = asyncio.create_task(self._handler.run(self._store, work))
        beating = asyncio.create_task(self._beat(work))
        try:
            await asyncio.wait({running, beating}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            lost = not running.done()
            for task in (running, beating):
                task.cancel()
            await asyncio.wait({running, beating})
        if lost and running.cancelled():
            await self._store.of(work.principal).member(work.store_id, work.file_id)  # NotFound where it was deleted
        else:
            running.result()

    async def _beat(self, work: Work) -> None:
        """Keep the lease; return once it is lost."""
        while True:
            await asyncio.sleep(self._settings.lease_s / _BEATS)
            try:
                if not await self._store.extend(work, self._settings.lease_s):
                    return
            except Exception:
                _logger.exception("can not extend the lease of %s", work.file_id)

    async def _give_up(self, work: Work, code: Reason, message: str) -> None:
        await self._handler.undo(self._store, work)
        with contextlib.suppress(NotFound):
            await self._store.of(work.principal).fail(work.store_id, work.file_id, code, message)
