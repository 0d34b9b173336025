"""Files that are put into a vector store together: up to thousands in one transaction, each with an outcome of its own."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import ColumnElement, case, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import join

from deployments.core.ids import checked, found, new_id
from deployments.core.jobs import INGEST
from deployments.core.members import Member, Placing, enlist, shown
from deployments.core.tables import BatchFileRow, BatchRow, FileRow, JobRow, MemberRow, PassageRow

if TYPE_CHECKING:
    from deployments.core.store import Store

_MEMBER = (MemberRow.store_id == BatchRow.store_id) & (MemberRow.file_id == BatchFileRow.file_id)
_HELD = join(join(BatchFileRow, BatchRow, BatchRow.id == BatchFileRow.batch_id), MemberRow, _MEMBER, isouter=True)
"""Files of batches with their members, which may be gone."""

_STATUS = case((BatchFileRow.unknown, "failed"), else_=func.coalesce(MemberRow.status, "cancelled"))
"""How a file of a batch stands: one that was taken out of the store since counts as cancelled."""


class Batch(msgspec.Struct, frozen=True):
    """A batch, with how many of its files are in which state."""

    id: str
    store_id: str
    created_at: int
    cancelled: bool
    counts: dict[str, int]

    @property
    def status(self) -> str:
        """The state of the whole: `failed` only where every file has failed."""
        if self.counts.get("in_progress"):
            return "in_progress"
        if self.cancelled:
            return "cancelled"
        return "failed" if self.counts and set(self.counts) == {"failed"} else "completed"


class Batches:
    """The batches of one tenant."""

    def __init__(self, store: "Store", tenant: str):
        self._store = store
        self._tenant = tenant

    async def add(self, store_id: str, wanted: Mapping[str, Placing]) -> Batch:
        """Put files into a store; those that the tenant does not have fail, and the others go on. Raises NotFound for the store."""
        name, now = new_id("vsfb_"), int(self._store.clock())
        async with self._store.write() as session:
            has_store, there = await enlist(self._store, session, self._tenant, checked("vector store", store_id), wanted)
            found(has_store or None, "vector store", store_id)
            session.add(BatchRow(id=name, store_id=store_id, tenant_id=self._tenant, created_at=now))
            await session.flush()
            rows = [{"batch_id": name, "file_id": one, "tenant_id": self._tenant, "unknown": one not in there} for one in wanted]
            await session.execute(insert(BatchFileRow), rows)
        return await self.get(store_id, name)

    async def get(self, store_id: str, batch_id: str) -> Batch:
        """A batch of a store."""
        counts = select(_STATUS, func.count()).select_from(_HELD).where(BatchFileRow.batch_id == batch_id).group_by(_STATUS)
        async with self._store.session() as session:
            row = await self._row(session, store_id, batch_id)
            counted: dict[str, int] = dict((await session.execute(counts)).all())
            return Batch(row.id, row.store_id, row.created_at, row.cancelled, counted)

    async def files(
        self, store_id: str, batch_id: str, after: str = "", limit: int = 100, *, newest_first: bool = False, status: str | None = None
    ) -> list[Member]:
        """Files of a batch by their age, after one of them."""
        wanted: ColumnElement[bool] = BatchFileRow.batch_id == batch_id
        if after:
            wanted &= (BatchFileRow.file_id < after) if newest_first else (BatchFileRow.file_id > after)
        if status:
            wanted &= status == _STATUS
        order = BatchFileRow.file_id.desc() if newest_first else BatchFileRow.file_id
        async with self._store.session() as session:
            batch = await self._row(session, store_id, batch_id)
            rows = select(BatchFileRow, MemberRow).select_from(_HELD).where(wanted).order_by(order).limit(limit)
            return [_outcome(batch, file, member) for file, member in (await session.execute(rows)).all()]

    async def cancel(self, store_id: str, batch_id: str) -> list[str]:
        """Call off what is not ingested yet; returns the files of it that the index may hold something of."""
        waiting = select(BatchFileRow.file_id).join(MemberRow, MemberRow.file_id == BatchFileRow.file_id)
        waiting = waiting.where(BatchFileRow.batch_id == batch_id, MemberRow.store_id == store_id, MemberRow.status == "in_progress")
        async with self._store.write() as session:
            row = await self._row(session, store_id, batch_id)
            await session.execute(select(FileRow.id).where(FileRow.id.in_(waiting)).order_by(FileRow.id).with_for_update())
            files = list(await session.scalars(waiting))
            subjects = [f"{store_id}/{file_id}" for file_id in files]
            begun = (JobRow.tenant_id == self._tenant) & (JobRow.kind == INGEST) & JobRow.subject.in_(subjects) & (JobRow.attempts > 0)
            touched = {subject.partition("/")[2] for subject in await session.scalars(select(JobRow.subject).where(begun))}
            held = (PassageRow.store_id == store_id) & PassageRow.file_id.in_(files)
            touched |= set(await session.scalars(select(PassageRow.file_id).where(held).distinct()))
            await self._store.jobs.cancel_all(session, self._tenant, INGEST, subjects)
            await session.execute(delete(PassageRow).where(held))
            named = (MemberRow.store_id == store_id) & MemberRow.file_id.in_(files)
            await session.execute(update(MemberRow).where(named).values(status="cancelled"))
            row.cancelled = True
        return sorted(touched)

    async def forget(self, session: AsyncSession, store_id: str) -> None:
        """Drop the batches of a store that is being deleted."""
        batches = select(BatchRow.id).where(BatchRow.store_id == store_id, BatchRow.tenant_id == self._tenant)
        await session.execute(delete(BatchFileRow).where(BatchFileRow.batch_id.in_(batches)))
        await session.execute(delete(BatchRow).where(BatchRow.store_id == store_id, BatchRow.tenant_id == self._tenant))

    async def _row(self, session: AsyncSession, store_id: str, batch_id: str) -> BatchRow:
        mine = (BatchRow.id == checked("file batch", batch_id)) & (BatchRow.tenant_id == self._tenant)
        wanted = select(BatchRow).where(mine, BatchRow.store_id == checked("vector store", store_id))
        return found(await session.scalar(wanted), "file batch", batch_id)


def _outcome(batch: BatchRow, file: BatchFileRow, member: MemberRow | None) -> Member:
    if member is not None and not file.unknown:
        return shown(member)
    status, code, why = ("failed", "invalid_file", f"no file with the id '{file.file_id}'") if file.unknown else ("cancelled", None, None)
    return Member(batch.store_id, file.file_id, status, code, why, {}, batch.created_at, 0)
