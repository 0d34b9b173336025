"""The worker as a Serve deployment: its loop runs beside the calls it answers."""

import asyncio
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

    async def wake(self) -> None:
        """Look for work now."""
        self._runner.wake()

    async def ping(self) -> None:
        """Answer."""

    async def check_health(self) -> None:
        """Starts the loop at the first check; raises when it has ended."""
        if self._loop is None:
            self._hub.start()
            self._gate.start()
            self._loop = asyncio.get_running_loop().create_task(self._runner.run())
        if self._loop.done():
            raise RuntimeError("the worker's loop has ended")

    async def __del__(self) -> None:
        """Serve awaits this when the replica ends."""
        self._runner.stop()
        if self._loop is not None:
            await asyncio.wait({self._loop}, timeout=_GRACE_S)
            self._loop.cancel()
            await asyncio.wait({self._loop})
        await self._gate.close()
        await self._hub.close()
        await self._outbox.close()
        await self._store.close()
