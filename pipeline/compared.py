"""The one place where a turn ends, as far as canaries are concerned: what it came to counts for the side that it was on.

Each process keeps its own evidence and writes it into a Valkey hash about once a second, beside that of the others; whichever sees that
all of it together is enough ends the canary in SQL. While Valkey is away each goes by its own. A turn that is part of no canary passes.
"""

import asyncio
import logging
from collections.abc import Awaitable
from contextlib import suppress
from functools import cached_property
from random import Random
from typing import cast
from uuid import uuid4

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from deployments.core.canaries import MOST_OPEN, Canaries
from deployments.core.choices import Choice
from deployments.core.config import Settings
from deployments.core.evidence import Evidence, Tally, together, worse
from deployments.core.recent import Recent
from deployments.core.run import Answers, Run
from deployments.core.store import Store
from deployments.core.types import Failed, Turn
from deployments.core.valkey import connect

EVERY_S = 1.0
"""Pause between two looks at what all processes have seen."""

_KEPT_S = 30 * 86_400
"""How long what was seen of a canary is kept after its last turn."""
_SESSIONS = 10_000
"""Sessions with a failure that are remembered, by a process and of each canary by all."""
ACTOR = "canary"
"""Who rolls back, on the record."""

_logger = logging.getLogger("headrace.canary")
_tally = msgspec.msgpack.Decoder(Tally).decode


class Compared:
    """A flow whose turns are compared; implements the gateway's `Answers`."""

    def __init__(self, settings: Settings, flow: Answers):
        self._settings, self._flow = settings, flow
        self._name = ""
        self._seen: dict[str, Evidence] = {}
        self._told: set[str] = set()
        self._failures: list[Choice] = []
        self._task: asyncio.Task[None] | None = None

    async def answer(self, turn: Turn, run: Run) -> None:
        """Write the whole response of a turn to its log, and note what it came to.

        Of one that was called off, which is no failure, it counts how long its first token took, or how long it was waited for.
        """
        open_ = [one for one in turn.choices if one.canary]
        if not open_:
            await self._flow.answer(turn, run)
            return
        now = asyncio.get_running_loop().time
        began, ended = now(), False
        try:
            await self._flow.answer(turn, run)
            ended = True
        finally:
            # nothing is awaited here: once its client has the last word, this task is cancelled
            last = run.writer.written[-1] if ended and run.writer.written else None
            first_at = run.tape.first_at or (0.0 if ended else now())
            for choice in open_:
                self._note(choice, isinstance(last, Failed), first_at - began if first_at else None)
            self._publish(run.store)

    async def close(self) -> None:
        """End what runs beside, and close the connection."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._valkey.aclose()

    @cached_property
    def _valkey(self) -> Redis:
        return connect(self._settings.valkey)

    @cached_property
    def _failed(self) -> Recent[str, bool]:
        return Recent(_KEPT_S, asyncio.get_running_loop().time, _SESSIONS)

    def _note(self, choice: Choice, failed: bool, took_s: float | None) -> None:
        """Count a turn for its side. Of a session one failure counts: who asks the same thing again and again is one witness."""
        evidence = self._seen.pop(choice.canary, None) or Evidence(Random())
        if len(self._seen) >= 2 * MOST_OPEN:
            self._seen.pop(next(iter(self._seen)))
        self._seen[choice.canary] = evidence  # at the end: the one that was met last is forgotten last
        evidence.turn(choice.arm)
        self._told.add(choice.canary)
        if failed:
            if not self._failed.get(choice.session):
                self._failed.put(choice.session, True)
                self._failures.append(choice)
        elif took_s is not None:
            evidence.measure("ttft", choice.arm, took_s, choice.weight)

    def _publish(self, store: Store) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._tell(store))

    async def _tell(self, store: Store) -> None:
        """Tell what was seen until nothing new is."""
        while self._told:
            await asyncio.sleep(EVERY_S)
            told, self._told = self._told, set()
            failures, self._failures = self._failures, []
            for choice in await self._new(failures):
                if evidence := self._seen.get(choice.canary):
                    evidence.event("errors", choice.arm, choice.weight)
            for canary in told:
                try:
                    await self._judge(store, canary)
                except (SQLAlchemyError, OSError):
                    _logger.exception("canary %s can not be judged", canary)

    async def _new(self, failures: list[Choice]) -> list[Choice]:
        """Those of sessions that have failed in no process before, as far as is known; beyond the bound, some are forgotten at random."""
        with suppress(RedisError, OSError):
            async with self._valkey.pipeline() as pipe:
                for one in failures:
                    key = f"hr:canary:{one.canary}:failed"
                    pipe.sadd(key, one.session)
                    pipe.expire(key, _KEPT_S)
                    pipe.scard(key)
                told = await pipe.execute()
                for one, count in zip(failures, told[2::3], strict=True):
                    if count > _SESSIONS:
                        pipe.spop(f"hr:canary:{one.canary}:failed")
                await pipe.execute()
            return [one for one, is_new in zip(failures, told[::3], strict=True) if is_new]
        return failures

    async def _judge(self, store: Store, canary: str) -> None:
        """End a canary whose variant does worse, by all that is known."""
        evidence = self._seen.get(canary)
        if not evidence:  # forgotten meanwhile
            return
        known = together(await self._known(canary, evidence.tally))
        if signal := worse(known):
            figures = {f"turns_{side}": known.turns[place] for place, side in enumerate(("control", "variant"))}
            figures |= {f"errors_{side}": known.events["errors"][place] for place, side in enumerate(("control", "variant"))}
            if await Canaries(store, ACTOR).roll_back(canary, signal, **figures):
                _logger.warning("canary %s is rolled back for its %s: %s", canary, signal, figures)

    async def _known(self, canary: str, mine: Tally) -> list[Tally]:
        """What every process has seen, this one included."""
        self._name = self._name or uuid4().hex
        key = f"hr:canary:{canary}"
        with suppress(RedisError, OSError):
            await self._valkey.hset(key, self._name, msgspec.msgpack.encode(mine))
            await self._valkey.expire(key, _KEPT_S)
            return [_tally(one) for one in await cast(Awaitable[list[bytes]], self._valkey.hvals(key))]
        return [mine]
