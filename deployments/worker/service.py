"""The worker as a Serve deployment: its loop runs beside the calls it answers."""

import asyncio

from deployments.core.config import Settings
from deployments.core.store import Store
from deployments.worker.work import Handles, Runner

_GRACE_S = 2
"""How long the work at hand may go on when the replica ends; then it is given back, and doing it again costs nothing but time."""


class Worker:
    """Works off what waits in SQL, with the handler it was bound to."""

    def __init__(self, settings: Settings, handler: Handles):
        self._store = Store(settings.database_url)
        self._runner = Runner(self._store, settings.worker, handler)
        self._loop: asyncio.Task[None] | None = None

    async def wake(self) -> None:
        """Look for work now."""
        self._runner.wake()

    async def ping(self) -> None:
        """Answer."""

    async def check_health(self) -> None:
        """Starts the loop at the first check; raises when it has ended."""
        if self._loop is None:
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
        await self._store.close()
