"""One answer from whichever backends it takes: where one breaks off, the next takes over."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from random import Random
from typing import Protocol

from deployments.core import config
from deployments.core.errors import HeadraceError
from deployments.core.sections import Contract, Upstream
from deployments.core.types import Generation
from deployments.generator.budget import Budget
from deployments.generator.plan import Plan
from deployments.generator.progress import Progress
from deployments.generator.sse import Piece
from deployments.generator.standing import Standings

_logger = logging.getLogger("headrace.generator")


class Streams(Protocol):
    """A backend; `generator.backends.Backend` says what is promised."""

    def stream(self, generation: Generation, said: str, last: float) -> AsyncGenerator[Piece]:
        """The pieces of one answer behind what was said."""
        ...

    async def close(self) -> None:
        """Close idle connections."""
        ...


class Chain:
    """The backends of this process, with how each is doing; `connect` makes the client of one that is asked the first time."""

    def __init__(self, connect: Callable[[Upstream], Streams], settings: config.Generator, random: Random):
        self._connect, self._settings, self._random = connect, settings.resilience, random
        self._upstreams, self._regions = settings.upstreams, settings.regions
        self._contract: Contract = settings.on_break
        self._clients: dict[str, Streams] = {}
        self._standings, self._budget = Standings(self._settings), Budget(self._settings)

    async def stream(self, generation: Generation) -> AsyncGenerator[Piece]:
        """The pieces of one answer, the last with `done`; the first behind a place where another backend took over has a `seam`.

        A backend that failed before it said anything leaves none. Raises what the last one that was asked raised. Closing the iterator
        ends the generation.
        """
        now = asyncio.get_running_loop().time
        until = now() + generation.deadline_s
        progress = Progress(generation, self._contract)
        wish = self._regions, generation.tier, generation.prefers
        plan = Plan(self._upstreams, self._settings, self._standings, self._budget, self._random, until, *wish)
        while True:
            call = plan.begin(now())
            try:
                async with aclosing(self._client(call.upstream).stream(generation, progress.shown, until)) as pieces:
                    async for piece in pieces:
                        if piece.text or piece.calls:
                            call.hear(now())
                        yield progress.take(piece)
                call.end(now(), good=True)
                return
            except HeadraceError as error:
                if progress.over:  # all was said, only the end of the stream is missing
                    call.end(now(), good=True)
                    return
                pause_s = plan.failed(call, error, now(), progress.contract)
                progress.broke(error)
                _logger.warning("%s: %s; asking again in %.2f s", call.upstream.name, error, pause_s)
            finally:
                call.leave(now())
            await asyncio.sleep(pause_s)

    async def close(self) -> None:
        """Close idle connections."""
        await asyncio.gather(*(client.close() for client in self._clients.values()))

    def _client(self, upstream: Upstream) -> Streams:
        if upstream.name not in self._clients:
            self._clients[upstream.name] = self._connect(upstream)
        return self._clients[upstream.name]
