"""The content of a vector store as the index ought to hold it, and its version.

The version rises with every change, so that what was made from an older one is known to be old.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from itertools import groupby
from math import isfinite
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, exists, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import undefer

from deployments.core.ingested import opened
from deployments.core.ports import Filed
from deployments.core.tables import FileRow, MemberRow, PassageRow, StoreRow
from deployments.core.types import Source
from deployments.core.vault import Lock

if TYPE_CHECKING:
    from deployments.core.store import Store

HALF_LIFE = "headrace.half_life_s"
"""The metadata of a vector store that says how fast its content ages, in seconds."""
REBUILD = "rebuild"
"""The kind of job that builds the index of a store anew; its subject is the store."""

_AT_ONCE = 64
"""Files read in one transaction."""

_OUT = ("failed", "cancelled")
"""Files that are in no index, whatever an earlier ingestion has left of them in SQL."""


def half_life_s(metadata: Mapping[str, str]) -> float | None:
    """The half-life that a vector store's metadata states; None where it states none, or nothing that is one."""
    try:
        stated = float(metadata.get(HALF_LIFE, "nan"))
    except ValueError:
        return None
    return stated if isfinite(stated) and stated > 0 else None


class Corpus:
    """The content and the versions of one tenant's vector stores."""

    def __init__(self, store: "Store", tenant: str):
        self._store = store
        self._tenant = tenant

    async def version(self, store_id: str) -> int:
        """The version of a store's content; 0 for one that has none."""
        mine = (StoreRow.id == store_id) & (StoreRow.tenant_id == self._tenant)
        async with self._store.session() as session:
            return await session.scalar(select(StoreRow.version).where(mine)) or 0

    async def half_life_s(self, store_id: str) -> float | None:
        """The half-life that a store states; None for one that has none."""
        mine = (StoreRow.id == store_id) & (StoreRow.tenant_id == self._tenant)
        async with self._store.session() as session:
            return half_life_s(await session.scalar(select(StoreRow.labels).where(mine)) or {})

    async def touch(self, store_id: str) -> None:
        """Note a change that SQL knows nothing of, such as one of the index."""
        async with self._store.write() as session:
            await self.advance(session, [store_id])

    async def repair(self, store_id: str) -> bool:
        """Have the store's index built anew; False where the store has nothing to build it from."""
        mine = (PassageRow.store_id == store_id) & (PassageRow.tenant_id == self._tenant)
        async with self._store.session() as session:
            if not await session.scalar(select(exists().where(mine))):
                return False
        async with self._store.write() as session:
            await self._store.jobs.enqueue(session, self._tenant, REBUILD, store_id, interrupt=False)
        return True

    async def size(self, store_id: str) -> int:
        """How many passages the index ought to hold."""
        mine = (PassageRow.store_id == store_id) & (PassageRow.tenant_id == self._tenant) & (MemberRow.status.not_in(_OUT))
        held = select(func.count()).select_from(PassageRow).join(MemberRow, _member_of_passage()).where(mine)
        async with self._store.session() as session:
            return await session.scalar(held) or 0

    async def files(self, store_id: str) -> AsyncGenerator[list[Filed]]:
        """Every file that the index ought to hold, some at a time, each as it was at one moment; opened by the tenant's keys."""
        after = ""
        while True:
            async with self._store.session() as session:
                rows = await self._page(session, store_id, after)
                if not rows:
                    return
                after = rows[-1][0].file_id
                lock = await self._store.lock(session, self._tenant)
                passages = await self._passages(session, store_id, [file.id for _, file in rows])
            yield await asyncio.to_thread(_filed, [(*row, passages[row[1].id]) for row in rows if row[1].id in passages], lock)

    async def _page(self, session: AsyncSession, store_id: str, after: str) -> Sequence[tuple[MemberRow, FileRow]]:
        # One that could not be read again has been taken out of the index.
        mine = (MemberRow.store_id == store_id) & (MemberRow.tenant_id == self._tenant) & (MemberRow.status.not_in(_OUT))
        found = select(MemberRow, FileRow).join(FileRow, FileRow.id == MemberRow.file_id).where(mine, MemberRow.file_id > after)
        page = found.options(undefer(FileRow.text)).order_by(MemberRow.file_id).limit(_AT_ONCE)
        return [(member, file) for member, file in (await session.execute(page)).all()]

    async def _passages(self, session: AsyncSession, store_id: str, file_ids: list[str]) -> dict[str, list[PassageRow]]:
        mine = (PassageRow.store_id == store_id) & (PassageRow.tenant_id == self._tenant) & PassageRow.file_id.in_(file_ids)
        rows = select(PassageRow).where(mine).options(undefer(PassageRow.vector)).order_by(PassageRow.file_id, PassageRow.number)
        return {file_id: list(some) for file_id, some in groupby(await session.scalars(rows), lambda row: row.file_id)}

    async def advance(self, session: AsyncSession, store_ids: Iterable[str]) -> None:
        """Note a change within its transaction, at its end: who changes the same store waits from here on."""
        for store_id in sorted(store_ids):  # in one order, or two transactions would wait for each other
            mine = (StoreRow.id == store_id) & (StoreRow.tenant_id == self._tenant)
            await session.execute(update(StoreRow).where(mine).values(version=StoreRow.version + 1))


def _member_of_passage() -> ColumnElement[bool]:
    return (MemberRow.store_id == PassageRow.store_id) & (MemberRow.file_id == PassageRow.file_id)


def _filed(page: Sequence[tuple[MemberRow, FileRow, list[PassageRow]]], tenant: Lock) -> list[Filed]:
    files: list[Filed] = []
    for member, file, rows in page:
        if made := opened(file, rows, tenant.of(file.data_key, "files", file.id)):
            source = Source(file.id, file.filename, made.title, dict(member.attributes), member.created_at)
            files.append((source, made.chunks, made.vectors))
    return files
