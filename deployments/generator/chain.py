"""One answer from whichever backends it takes: where one breaks off, the next takes over."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from random import Random

from deployments.core import config
from deployments.core.errors import HeadraceError
from deployments.core.models import Contract, Upstream
from deployments.core.types import Generation
from deployments.generator.budget import Budget
from deployments.generator.clients import Clients, Streams
from deployments.generator.plan import Plan
from deployments.generator.progress import Progress
from deployments.generator.sse import Piece
from deployments.generator.standing import Standings
from deployments.generator.suited import suited

_logger = logging.getLogger("headrace.generator")


class Chain:
    """The backends of this process, with how each is doing; `connect` makes the client of one that is asked the first time."""

    def __init__(self, connect: Callable[[Upstream], Streams], settings: config.Generator, random: Random):
        self._clients, self._settings, self._random = Clients(connect), settings.resilience, random
        self._upstreams, self._regions = settings.upstreams, settings.regions
        self._contract: Contract = settings.on_break
        self._usual_tokens = settings.default_max_tokens
        self._standings, self._budget = Standings(self._settings), Budget(self._settings)

    async def stream(self, generation: Generation) -> AsyncGenerator[Piece]:
        """The pieces of one answer, the last with `done`; the first behind a place where another backend took over has a `seam`.

        A backend that failed before it said anything leaves none. Raises what the last one that was asked raised, or what `suited`
        refuses with. Closing the iterator ends the generation.
        """
        now = asyncio.get_running_loop().time
        until = now() + generation.deadline_s
        model = generation.model
        progress = Progress(generation, (model and model.on_break) or self._contract)
        upstreams = suited(model.upstreams(self._upstreams) if model else self._upstreams, generation, self._usual_tokens)
        plan = Plan(upstreams, self._settings, self._standings, self._budget, self._random, until, self._regions, generation.tier)
        while True:
            call = plan.begin(now())
            try:
                async with (
                    self._clients.of(call.upstream) as client,
                    aclosing(client.stream(generation, progress.shown, until)) as pieces,
                ):
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
        await self._clients.close()
