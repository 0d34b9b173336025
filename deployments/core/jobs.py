"""Durable jobs: written down in the transaction that wants them, leased by workers, done in the transaction of their effect.

A job is named by tenant, kind and subject, and holds no content. `fence` counts every lease it ever had: who holds the highest one
holds the job, and whatever else it fences off (a response log) by the same number.

A transaction locks the row of the subject first, then the job, then what belongs to the subject; in any other order two could wait
for each other.
"""

import contextlib
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import ColumnElement, Select, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from deployments.core.errors import HeadraceError
from deployments.core.ids import found, new_id
from deployments.core.sql import INSERTS
from deployments.core.tables import JobRow
from deployments.core.types import Principal

if TYPE_CHECKING:
    from deployments.core.store import Store

_LIVE = ("queued", "running")
INGEST, RESPOND, REMEMBER, EXPIRE = "ingest", "respond", "remember", "expire"

MOST_WAITING = 1000
"""Waiting jobs that are counted; more make no difference to anybody."""

EPOCHS_PER_LEASE = 256
"""Epochs of a response log that belong to one fence: takeovers within one lease, each with an epoch of its own."""


class LeaseLost(HeadraceError):
    """The job belongs to somebody else by now, or to nobody."""

    code = "lease_lost"


class Job(msgspec.Struct, frozen=True):
    """A leased job; `attempt` counts from 1 what has been tried, `fence` every lease."""

    id: str
    tenant: str
    kind: str
    subject: str
    attempt: int
    fence: int

    @property
    def principal(self) -> Principal:
        """Whom the worker acts for: the tenant of the job, with no key behind it."""
        return Principal(self.tenant, "worker", frozenset({"chat", "files:read", "files:write"}))


class Jobs:
    """The jobs of a database."""

    def __init__(self, store: "Store"):
        self._store = store

    async def lease(self, kinds: Mapping[str, float]) -> Job | None:
        """Take the job of these kinds that has been due for longest, for as many seconds as its kind says; None where there is none."""
        return next(iter(await self._take(kinds, dict.fromkeys(kinds, 1), 1)), None)

    async def lease_all(self, kinds: Mapping[str, float], room: Mapping[str, int]) -> list[Job]:
        """The same for as many of each kind as there is room for, in one transaction; a full kind may hide others until the next call."""
        return await self._take(kinds, room, sum(room.values()))

    async def _take(self, kinds: Mapping[str, float], room: Mapping[str, int], most: int) -> list[Job]:
        now, left, taken = self._now(), dict(room), list[JobRow]()
        due = JobRow.kind.in_(list(kinds)) & JobRow.status.in_(_LIVE) & (JobRow.run_at <= now) & (JobRow.leased_until <= now)
        oldest = select(JobRow).where(due).order_by(JobRow.run_at, JobRow.id).limit(most)
        async with self._store.write() as session:
            for row in await session.scalars(oldest.with_for_update(skip_locked=True)):
                if left[row.kind]:
                    left[row.kind] -= 1
                    row.status, row.leased_until = "running", now + _ms(kinds[row.kind])
                    row.attempts, row.fence = row.attempts + 1, row.fence + 1
                    taken.append(row)
        return [Job(row.id, row.tenant_id, row.kind, row.subject, row.attempts, row.fence) for row in taken]

    async def extend(self, job: Job, seconds: float) -> bool:
        """Keep a lease for that much longer from now; False where it is lost."""
        return await self._change(job, leased_until=self._now() + _ms(seconds))

    async def release(self, job: Job, delay_s: float = 0, *, counted: bool = True) -> None:
        """Give a lease back; the job is due again that much later. An attempt may be left uncounted."""
        attempts = job.attempt if counted else job.attempt - 1
        await self._change(job, status="queued", leased_until=0, run_at=self._now() + _ms(delay_s), attempts=attempts)

    @contextlib.asynccontextmanager
    async def finishing(self, job: Job, status: str = "done", error: str | None = None) -> AsyncGenerator[AsyncSession]:
        """The transaction of the job's effect, which ends the job as well; raises LeaseLost before the body where it is not ours."""
        async with self._store.write() as session:
            await self.end(session, job, status, error)
            yield session

    async def end(self, session: AsyncSession, job: Job, status: str = "done", error: str | None = None) -> None:
        """End a job in the transaction of its effect; raises LeaseLost where it is not ours."""
        row = await self.hold(session, job)
        row.status, row.leased_until, row.error_message = status, 0, error
        if row.again:
            row.status, row.again, row.attempts = "queued", False, 0

    async def hold(self, session: AsyncSession, job: Job) -> JobRow:
        """See that nobody takes a job over before this transaction ends; raises LeaseLost where somebody has."""
        row = await session.scalar(select(JobRow).where(_mine(job)).with_for_update())
        if row is None:
            raise LeaseLost("the job has been taken over")
        return row

    async def enqueue(
        self, session: AsyncSession, tenant: str, kind: str, subject: str, *, interrupt: bool = True, delay_s: float = 0
    ) -> None:
        """Write a job down, due that much later; one that is there begins anew, and who works on it has lost it, or may end it first,
        to do it again."""
        row = await self._row(session, tenant, kind, subject)
        if row and row.status == "running" and not interrupt:
            row.again = True
            return
        row = row or await self._new(session, tenant, kind, subject)
        row.status, row.attempts, row.fence, row.leased_until, row.error_message = "queued", 0, row.fence + 1, 0, None
        row.again = False
        row.created_at = self._now()
        row.run_at = row.created_at + _ms(delay_s)

    async def enqueue_all(self, session: AsyncSession, tenant: str, kind: str, subjects: Iterable[str]) -> None:
        """The same for many at once, in one statement."""
        now = self._now()
        values = [
            {
                "id": new_id("job_"),
                "tenant_id": tenant,
                "kind": kind,
                "subject": subject,
                "status": "queued",
                "run_at": now,
                "created_at": now,
            }
            for subject in sorted(subjects)  # in one order, or two transactions would wait for each other
        ]
        if not values:
            return
        insert = INSERTS[self._store.engine.dialect.name](JobRow)
        anew = {"status": "queued", "attempts": 0, "fence": JobRow.fence + 1, "leased_until": 0, "error_message": None, "again": False}
        names = [JobRow.tenant_id, JobRow.kind, JobRow.subject]
        await session.execute(insert.on_conflict_do_update(index_elements=names, set_=anew | {"run_at": now, "created_at": now}), values)

    async def cancel(self, session: AsyncSession, tenant: str, kind: str, subject: str) -> int:
        """Call a job off; returns its new fence, over that of whoever works on it, or 0 where there was nothing to call off."""
        row = await self._row(session, tenant, kind, subject)
        if row is None or row.status not in _LIVE:
            return 0
        row.status, row.fence, row.leased_until = "cancelled", row.fence + 1, 0
        return row.fence

    async def cancel_all(self, session: AsyncSession, tenant: str, kind: str, subjects: Sequence[str] | Select[str]) -> None:
        """The same for many at once."""
        named = (JobRow.tenant_id == tenant) & (JobRow.kind == kind) & JobRow.subject.in_(subjects) & JobRow.status.in_(_LIVE)
        off = update(JobRow).where(named).values(status="cancelled", fence=JobRow.fence + 1, leased_until=0)
        await session.execute(off.execution_options(**_UNSYNCED))

    async def backlog(self, kind: str | None = None) -> int:
        """How many jobs are not done."""
        live = JobRow.status.in_(_LIVE) & ((JobRow.kind == kind) if kind else True)
        async with self._store.session() as session:
            return await session.scalar(select(func.count()).select_from(JobRow).where(live)) or 0

    async def waiting(self) -> tuple[int, float]:
        """How many jobs are due that nobody holds, up to `MOST_WAITING`, and for how many seconds the oldest has been; one statement."""
        now = self._now()
        due = JobRow.status.in_(_LIVE) & (JobRow.run_at <= now) & (JobRow.leased_until <= now)
        oldest = select(JobRow.run_at).where(due).order_by(JobRow.run_at).limit(MOST_WAITING).subquery()
        async with self._store.session() as session:
            count, since = (await session.execute(select(func.count(), func.min(oldest.c.run_at)).select_from(oldest))).one()
        return count, (now - since) / 1000 if count else 0.0

    async def _row(self, session: AsyncSession, tenant: str, kind: str, subject: str) -> JobRow | None:
        named = (JobRow.tenant_id == tenant) & (JobRow.kind == kind) & (JobRow.subject == subject)
        return await session.scalar(select(JobRow).where(named).with_for_update())

    async def _new(self, session: AsyncSession, tenant: str, kind: str, subject: str) -> JobRow:
        """A row for a job, ours or that of who was faster."""
        now = self._now()
        values = {"id": new_id("job_"), "tenant_id": tenant, "kind": kind, "subject": subject, "status": "queued"}
        insert = INSERTS[self._store.engine.dialect.name](JobRow).values(values | {"run_at": now, "created_at": now})
        await session.execute(insert.on_conflict_do_nothing())
        return found(await self._row(session, tenant, kind, subject), "job", subject)

    async def _change(self, job: Job, **values: Any) -> bool:
        async with self._store.write() as session:
            changed = await session.execute(update(JobRow).where(_mine(job)).values(**values).execution_options(**_UNSYNCED))
        return bool(changed.rowcount)  # type: ignore[attr-defined]

    def _now(self) -> int:
        return _ms(self._store.clock())


_UNSYNCED: dict[str, Any] = {"synchronize_session": False}


def _mine(job: Job) -> ColumnElement[bool]:
    return (JobRow.id == job.id) & (JobRow.status == "running") & (JobRow.fence == job.fence)


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
