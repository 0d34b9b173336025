"""Turns that are kept to be looked at later: what was asked, given to the model and answered, and where the time went.

Kept sealed, of a share of turns only, for so many days; nothing where `telemetry.kept` is 0, as it is unless somebody sets it.
"""

import asyncio
import hashlib
import logging
from collections.abc import Sequence

import msgspec
from sqlalchemy import delete, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from deployments.core.ids import checked, found
from deployments.core.spans import Telemetry
from deployments.core.store import Store
from deployments.core.tables import TraceRow
from deployments.core.timings import Stage, Timings
from deployments.core.types import Cited, Delta, Finished, Message, Route, Text, Turn, Usage

_logger = logging.getLogger("headrace.traces")

FLUSH_S = 1.0
"""Turns wait so long to be written together."""
MOST_WAITING = 256
"""Turns that wait to be written; more are not kept."""
LONGEST_BYTES = 1 << 20
"""A turn that is larger is kept without what was said."""
_CLEAN_S = 600
_DAY_S = 86_400


class Trace(msgspec.Struct, frozen=True):
    """A turn that has ended; times in ms from its beginning."""

    id: str
    tenant: str
    created_at: int
    model: str
    outcome: str
    first_ms: float | None
    ms: float
    stages: tuple[Stage, ...] = ()
    route: Route | None = None
    asked: tuple[Message, ...] = ()
    read: tuple[Message, ...] = ()
    """What the model was given last."""
    answer: str = ""
    sources: tuple[str, ...] = ()
    """Names of the files that were cited."""
    usage: Usage | None = None


def trace(turn: Turn, timings: Timings, log: Sequence[Delta], created_at: int, outcome: str, first_s: float | None, took_s: float) -> Trace:
    """The trace of a turn, given its log."""
    return Trace(
        id=turn.id,
        tenant=turn.principal.tenant,
        created_at=created_at,
        model=turn.model,
        outcome=outcome,
        first_ms=None if first_s is None else round(1000 * first_s, 1),
        ms=round(1000 * took_s, 1),
        stages=tuple(timings.stages),
        route=timings.route,
        asked=_words(turn.messages),
        read=_words(timings.read),
        answer="".join(delta.text for delta in log if isinstance(delta, Text)),
        sources=tuple(dict.fromkeys(delta.citation.title for delta in log if isinstance(delta, Cited))),
        usage=next((delta.usage for delta in log if isinstance(delta, Finished)), None),
    )


def _words(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The messages without their images."""
    return tuple(msgspec.structs.replace(one, images=()) if one.images else one for one in messages)


class Traces:
    """The traces of all tenants."""

    def __init__(self, store: Store, settings: Telemetry):
        self._store, self._settings = store, settings
        self._waiting: list[Trace] = []

    def wants(self, turn_id: str) -> bool:
        """Whether a turn is one of those that are kept."""
        share = int.from_bytes(hashlib.blake2b(turn_id.encode(), digest_size=8).digest()) / 2**64
        return share < self._settings.kept and len(self._waiting) < MOST_WAITING

    def note(self, one: Trace) -> None:
        """Have it written soon."""
        self._waiting.append(one)

    async def flush(self) -> None:
        """Write what waits; what can not be written is lost."""
        traces, self._waiting = self._waiting, []
        if not traces:
            return
        try:
            async with self._store.session() as session:
                rows = [await self._row(session, one) for one in traces]
            async with self._store.write() as session:
                session.add_all(rows)
        except Exception as error:  # whatever it is, those that come next are written
            _logger.warning("%d traces are lost: %s", len(traces), type(error).__name__)

    async def _row(self, session: AsyncSession, one: Trace) -> TraceRow:
        body = msgspec.json.encode(one)
        if len(body) > LONGEST_BYTES:
            body = msgspec.json.encode(msgspec.structs.replace(one, asked=(), read=(), answer=""))
        sealed = (await self._store.lock(session, one.tenant)).seal(body, "traces", one.id, "body")
        return TraceRow(id=one.id, tenant_id=one.tenant, created_at=one.created_at, body=sealed)

    async def clean(self) -> None:
        """Delete what has been kept long enough."""
        before = int(self._store.clock()) - self._settings.kept_days * _DAY_S
        async with self._store.write() as session:
            await session.execute(delete(TraceRow).where(TraceRow.created_at < before))

    async def run(self) -> None:
        """Write and delete, until cancelled; writes once more then."""
        due = 0.0
        now = asyncio.get_running_loop().time
        try:
            while True:
                await asyncio.sleep(FLUSH_S)
                await self.flush()
                if now() >= due:
                    due = now() + _CLEAN_S
                    await self._clean_up()
        finally:
            await self.flush()

    async def _clean_up(self) -> None:
        try:
            await self.clean()
        except (SQLAlchemyError, OSError) as error:
            _logger.warning("old traces can not be deleted now: %s", type(error).__name__)

    async def get(self, trace_id: str, actor: str) -> Trace:
        """A trace; that it was read goes on record. Raises NotFound."""
        async with self._store.session() as session:
            row = found(await session.get(TraceRow, checked("trace", trace_id)), "trace", trace_id)
            lock = await self._store.lock(session, row.tenant_id)
        async with self._store.write() as session:
            await self._store.audit.append(session, actor, "trace.read", row.tenant_id, row.id)
        return msgspec.json.decode(lock.open(row.body, "traces", row.id, "body"), type=Trace)

    async def list(self, limit: int, tenant: str | None = None) -> list[tuple[str, str, int]]:
        """The newest traces: id, tenant, and when (Unix seconds)."""
        newest = select(TraceRow.id, TraceRow.tenant_id, TraceRow.created_at).order_by(TraceRow.created_at.desc(), TraceRow.id).limit(limit)
        if tenant is not None:
            newest = newest.where(TraceRow.tenant_id == tenant)
        async with self._store.session() as session:
            return [(row.id, row.tenant_id, row.created_at) for row in await session.execute(newest)]
