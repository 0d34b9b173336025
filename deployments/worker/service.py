"""The worker as a Serve deployment: its loop runs beside the calls it answers."""

import asyncio
import logging
from collections.abc import Mapping

from deployments.core.config import Settings
from deployments.core.follow import Hub
from deployments.core.gate import Gate
from deployments.core.keys import Keys
from deployments.core.outbox import Outbox
from deployments.core.service import begin
from deployments.core.store import open_store
from deployments.core.usage import Books
from deployments.core.valkey import connect
from deployments.worker.work import Handles, Means, Runner

_GRACE_S = 2
"""How long the jobs at hand may go on when the replica ends; then they are given back, and doing them again costs nothing but time."""
_LOOK_S = 2
"""Pause between two looks at how much waits: one statement each."""

_logger = logging.getLogger("headrace.worker")


class Worker:
    """Works off what waits in SQL, with the handlers it was bound to."""

    def __init__(self, settings: Settings, handlers: Mapping[str, Handles]):
        begin("worker", settings)
        self._store = open_store(settings)
        self._hub = Hub(connect(settings.valkey), settings.log)
        self._outbox = Outbox(connect(settings.valkey), settings.log, local=self._hub)
        keys = Keys(self._store, settings.pepper_bytes(), settings.gateway.key_cache_s)
        self._gate = Gate(connect(settings.valkey), settings, keys.policy, Books(self._store))
        self._runner = Runner(Means(self._store, self._hub, self._outbox, self._gate), settings.worker, handlers)
        self._loop: asyncio.Task[None] | None = None
        self._look: asyncio.Task[None] | None = None
        self._waiting: tuple[int, float] | None = None

    async def wake(self) -> None:
        """Look for work now."""
        self._runner.wake()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What Serve hears every second, and the policy decides by; nothing before the first look at SQL, nor where it can't be asked."""
        if self._waiting is None:
            return {}
        backlog, age_s = self._waiting
        return {"backlog": backlog, "age_s": age_s, "busy": self._runner.busy}

    async def _watch(self) -> None:
        while True:
            try:
                self._waiting = await self._store.jobs.waiting()
            except Exception:
                _logger.exception("can not see how much waits")
                self._waiting = None
            await asyncio.sleep(_LOOK_S)

    async def ping(self) -> None:
        """Answer."""

    async def check_health(self) -> None:
        """Starts the loop at the first check; raises when it has ended."""
        if self._loop is None:
            self._hub.start()
            self._gate.start()
            self._loop = asyncio.get_running_loop().create_task(self._runner.run())
            self._look = asyncio.get_running_loop().create_task(self._watch())
        if self._loop.done():
            raise RuntimeError("the worker's loop has ended")

    async def __del__(self) -> None:
        """Serve awaits this when the replica ends."""
        self._runner.stop()
        if self._look is not None:
            self._look.cancel()
            await asyncio.wait({self._look})
        if self._loop is not None:
            await asyncio.wait({self._loop}, timeout=_GRACE_S)
            self._loop.cancel()
            await asyncio.wait({self._loop})
        await self._gate.close()
        await self._hub.close()
        await self._outbox.close()
        await self._store.close()
