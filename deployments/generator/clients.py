"""The clients of backends that this process has called; one whose address or key has changed gets a new one."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Protocol

from deployments.core.models import Upstream
from deployments.core.types import Generation
from deployments.generator.sse import Piece

MAX_IDLE = 32
"""Clients that are kept while nobody uses them; over that, the one that was used least recently is closed."""


class Streams(Protocol):
    """A backend; `generator.backends.Backend` says what is promised."""

    def stream(self, generation: Generation, said: str, last: float) -> AsyncGenerator[Piece]:
        """The pieces of one answer behind what was said."""
        ...

    async def close(self) -> None:
        """Close idle connections."""
        ...


class Clients:
    """Clients by what they call; `connect` makes one for a backend that is called the first time."""

    def __init__(self, connect: Callable[[Upstream], Streams]):
        self._connect = connect
        self._known = OrderedDict[tuple[str, ...], Streams]()
        self._uses: dict[tuple[str, ...], int] = {}

    def ready(self, upstream: Upstream) -> tuple[tuple[str, ...], Streams]:
        """What is called, and its client. Making one takes some 50 ms, as it reads the certificates of all authorities."""
        called = (upstream.name, upstream.base_url, upstream.model, upstream.key or upstream.api_key.get_secret_value())
        client = self._known[called] = self._known.pop(called, None) or self._connect(upstream)
        return called, client

    @asynccontextmanager
    async def of(self, upstream: Upstream) -> AsyncGenerator[Streams]:
        """The client of a backend, which stays open while this lasts."""
        called, client = self.ready(upstream)
        self._uses[called] = self._uses.get(called, 0) + 1
        try:
            yield client
        finally:
            self._uses[called] -= 1
            await self._trim()

    async def close(self) -> None:
        """Close all."""
        await asyncio.gather(*(client.close() for client in self._known.values()))

    async def _trim(self) -> None:
        idle = [called for called in self._known if not self._uses.get(called)]
        for called in idle[: max(0, len(idle) - MAX_IDLE)]:
            self._uses.pop(called, None)
            await self._known.pop(called).close()
