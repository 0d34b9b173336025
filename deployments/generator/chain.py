"""One answer from whichever backends it takes: where one breaks off, the next takes over."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from random import Random

from deployments.core import config
from deployments.core.account import OK, STOPPED, Account, Attempt
from deployments.core.errors import HeadraceError
from deployments.core.models import Contract, Upstream
from deployments.core.telemetry import FALLBACKS, HEDGES
from deployments.core.types import Generation
from deployments.generator.budget import Budget
from deployments.generator.clients import Clients, Streams
from deployments.generator.hedge import hedged
from deployments.generator.measured import EVERY_S, calling, seen
from deployments.generator.plan import Plan
from deployments.generator.progress import Progress
from deployments.generator.spent import Spent
from deployments.generator.sse import Piece
from deployments.generator.standing import Call, Standings, Wish
from deployments.generator.suited import suited

_logger = logging.getLogger("headrace.generator")

Note = Callable[[str, Account, Attempt], None]


def nowhere(tenant: str, account: Account, attempt: Attempt) -> None:
    """Where attempts are noted that nobody counts."""


class Chain:
    """The backends of this process, with how each is doing.

    `connect` makes the client of one that is asked the first time, `note` is told of every attempt: whose tenant's and account's it was.
    """

    def __init__(self, connect: Callable[[Upstream], Streams], settings: config.Generator, random: Random, note: Note = nowhere):
        self._clients, self._settings, self._random, self._note = Clients(connect), settings.resilience, random, note
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
        wish = Wish(self._regions, generation.tier, generation.prefers, generation.session)
        plan = Plan(upstreams, self._settings, self._standings, self._budget, self._random, until, wish)
        hedge_s = self._settings.hedge_s if generation.hedged else None
        while True:
            pieces = self._call(plan, plan.begin(now()), generation, progress.shown, until)
            if hedge_s is not None and progress.contract is None:
                pieces = hedged(pieces, hedge_s, lambda: self._beside(plan, generation, until))
            try:
                async with aclosing(pieces):
                    async for piece in pieces:
                        yield progress.take(piece)
                return
            except HeadraceError as error:
                pause_s = plan.again(error, now(), progress.contract)
                progress.broke(error)
                FALLBACKS.add(error.wire_code)
            await asyncio.sleep(pause_s)

    async def _call(self, plan: Plan, call: Call, generation: Generation, said: str, until: float) -> AsyncGenerator[Piece]:
        """The pieces of one call of a backend, behind what was said; however it ends, it is noted."""
        now = asyncio.get_running_loop().time
        spent, outcome, first_s = Spent(call.upstream, generation), STOPPED, None
        with calling(call.upstream, generation) as told:
            try:
                async with self._clients.of(call.upstream) as client, aclosing(client.stream(generation, said, until)) as pieces:
                    async for piece in pieces:
                        if first_s is None and (piece.text or piece.calls):
                            call.hear(now())
                            first_s = now() - call.began
                        spent.take(piece)
                        told.hear(piece.text)
                        yield piece
                outcome = OK
            except HeadraceError as error:
                if not spent.over:  # else all was said, only the end of the stream is missing
                    outcome = error.wire_code
                    plan.failed(call, error, now())
                    _logger.warning("%s: %s", call.upstream.name, error)
                    raise
                outcome = OK
            except Exception:
                outcome = HeadraceError.code
                raise
            finally:
                if outcome == OK:
                    call.end(now(), good=True)
                else:
                    call.leave(now())
                attempt = spent.attempt(outcome)
                self._note(generation.log.tenant, generation.account, attempt)
                told.end(attempt, now() - call.began, first_s)

    def _beside(self, plan: Plan, generation: Generation, until: float) -> AsyncGenerator[Piece] | None:
        """Another call of a backend beside the one that is under way, where there is one to be asked."""
        call = plan.spare(asyncio.get_running_loop().time())
        if call is None:
            return None
        HEDGES.add()
        return self._call(plan, call, generation, "", until)

    def warm(self) -> None:
        """Make the clients of all configured backends, so that no answer waits for that when another one takes over."""
        for upstream in self._upstreams:
            self._clients.ready(upstream)

    async def pulse(self) -> None:
        """Say how the backends are doing, again and again, until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(EVERY_S)

    def look(self) -> None:
        """Say it once."""
        seen(self._standings, asyncio.get_running_loop().time())

    async def close(self) -> None:
        """Close idle connections."""
        await self._clients.close()
