"""What must survive, in SQL. `store.of(principal)` is the only door to what a tenant owns."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from types import MappingProxyType
from typing import Any

import msgspec
from sqlalchemy import Select, delete, func, insert, literal, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import undefer

from deployments.core.approvals import Approvals
from deployments.core.audit import Audit
from deployments.core.batches import Batches
from deployments.core.config import Settings
from deployments.core.conversations import Conversations
from deployments.core.errors import NotFound
from deployments.core.files import Files, seal
from deployments.core.filing import Filing
from deployments.core.idempotency import Attempts
from deployments.core.ids import checked, found, new_id
from deployments.core.ingested import Ingested, chunk, opened, passage
from deployments.core.jobs import INGEST, Job, Jobs
from deployments.core.members import Member, Placing, enlist, shown
from deployments.core.prompts import Prompts
from deployments.core.responses import Responses
from deployments.core.sql import CONNECTIONS, WRITES, open_engine
from deployments.core.tables import FileRow, MemberRow, PassageRow, StoreRow, TenantRow
from deployments.core.types import Chunk, Principal, Vectors
from deployments.core.uploads import Uploads
from deployments.core.vault import Lock, Vault

Attributes = Mapping[str, str | float | bool]

_MAX_LOCKS = 10_000
"""Tenants whose keys a process remembers."""


class VectorStore(msgspec.Struct, frozen=True):
    """A collection, with how many of its files are in which state."""

    id: str
    name: str
    created_at: int
    usage_bytes: int
    counts: dict[str, int]
    metadata: dict[str, str] = {}
    description: str | None = None


def open_store(settings: Settings) -> "Store":
    """The database that the settings name."""
    return Store(settings.database_url, Vault(settings.root_bytes()), connections=settings.sql_connections)


class Store:
    """The database; opens nothing until it is first used."""

    def __init__(self, url: str, vault: Vault, clock: Callable[[], float] = time.time, connections: int = CONNECTIONS):
        self.engine = open_engine(url, connections)
        self.vault = vault
        self.clock = clock
        self.jobs = Jobs(self)
        self.audit = Audit(self, vault.derived("audit head"))
        self._locks: dict[str, Lock] = {}
        self._sessions = async_sessionmaker(self.engine, expire_on_commit=False)
        self._writing = async_sessionmaker(self.engine.execution_options(**WRITES), expire_on_commit=False)
        self._turn: AbstractAsyncContextManager[None] = asyncio.Lock() if url.startswith("sqlite") else contextlib.nullcontext()

    def session(self) -> AsyncSession:
        """A session to read with, of one consistent moment."""
        return self._sessions()

    @contextlib.asynccontextmanager
    async def write(self) -> AsyncGenerator[AsyncSession]:
        """A transaction that commits at its end. SQLite has one writer at a time: await nothing but the session inside.

        Ours queue for it here: its own way to wait is to look again ever less often, by which a few wait for seconds.
        """
        async with self._turn, self._writing() as session, session.begin():
            yield session

    def of(self, principal: Principal) -> "TenantStore":
        """Everything that principal's tenant owns, and nothing else."""
        return TenantStore(self, principal.tenant)

    def of_tenant(self, tenant: str) -> "TenantStore":
        """The same for the stores of a tenant among each other, which know whose they are."""
        return TenantStore(self, tenant)

    async def lock(self, session: AsyncSession, tenant: str) -> Lock:
        """The lock of a tenant; raises NotFound where there is no such tenant."""
        if lock := self._locks.get(tenant):
            return lock
        wrapped = await session.scalar(select(TenantRow.key).where(TenantRow.id == tenant))
        if wrapped is None:
            raise NotFound("no such tenant")
        if len(self._locks) >= _MAX_LOCKS:
            self._locks.clear()
        return self._locks.setdefault(tenant, self.vault.lock(tenant, wrapped))

    async def close(self) -> None:
        """Close every connection."""
        await self.engine.dispose()


class TenantStore(Files):
    """What one tenant owns. Raises NotFound for an id that is not this tenant's."""

    def __init__(self, store: Store, tenant: str):
        super().__init__(store, tenant)
        self.responses = Responses(store, tenant)
        self.conversations = Conversations(store, tenant)
        self.approvals = Approvals(store, tenant)
        self.attempts = Attempts(store, tenant)
        self.uploads = Uploads(self, store, tenant)
        self.batches = Batches(store, tenant)
        self.ingested = Ingested(store, tenant)
        self.filing = Filing(self, store, tenant)
        self.prompts = Prompts(store, tenant)

    async def lock(self) -> Lock:
        """The lock of the tenant, for what is kept outside SQL."""
        async with self._store.session() as session:
            return await self._store.lock(session, self._tenant)

    async def add_store(
        self,
        name: str,
        store_id: str | None = None,
        metadata: Mapping[str, str] | None = None,
        description: str | None = None,
        wanted: Mapping[str, Placing] = MappingProxyType({}),
    ) -> VectorStore:
        """Make a vector store with these files, or none where one of them is not there."""
        row = StoreRow(
            id=store_id or new_id("vs_"),
            tenant_id=self._tenant,
            name=name,
            labels=dict(metadata or {}),
            created_at=int(self._store.clock()),
            description=description,
        )
        async with self._store.write() as session:
            session.add(row)
            await session.flush()
            await self._enlist(session, row.id, wanted)
        counts = {"in_progress": len(wanted)} if wanted else {}
        return VectorStore(row.id, row.name, row.created_at, 0, counts, row.labels, row.description)

    async def stores(self, after: str = "", limit: int | None = None, *, newest_first: bool = False) -> list[VectorStore]:
        """Vector stores of the tenant, all of them or a page, by their age."""
        wanted = StoreRow.tenant_id == self._tenant
        if after:
            wanted &= (StoreRow.id < after) if newest_first else (StoreRow.id > after)
        order = StoreRow.id.desc() if newest_first else StoreRow.id
        async with self._store.session() as session:
            rows = await session.scalars(select(StoreRow).where(wanted).order_by(order).limit(limit))
            return await self._counted(session, rows.all())

    async def store(self, store_id: str) -> VectorStore:
        """A vector store by id."""
        async with self._store.session() as session:
            return (await self._counted(session, [await self._storerow(session, store_id)]))[0]

    async def default_store(self) -> str | None:
        """The id of the tenant's first vector store, which plain questions search; None where it has none."""
        async with self._store.session() as session:
            rows = select(StoreRow.id).where(StoreRow.tenant_id == self._tenant).order_by(StoreRow.created_at, StoreRow.id).limit(1)
            return await session.scalar(rows)

    async def require(self, store_id: str) -> None:
        """Return where the vector store is this tenant's."""
        async with self._store.session() as session:
            await self._storerow(session, store_id)

    async def update_store(self, store_id: str, name: str | None = None, metadata: Mapping[str, str] | None = None) -> VectorStore:
        """Give a vector store another name, or other metadata in place of all it had."""
        async with self._store.write() as session:
            row = await self._storerow(session, store_id)
            row.name = row.name if name is None else name
            row.labels = row.labels if metadata is None else dict(metadata)
        return await self.store(store_id)

    async def delete_store(self, store_id: str) -> None:
        """Delete a vector store with its members and passages; the files stay."""
        async with self._store.write() as session:
            await self._storerow(session, store_id)
            held = select(MemberRow.file_id).where(MemberRow.store_id == store_id)
            await session.execute(select(FileRow.id).where(FileRow.id.in_(held)).order_by(FileRow.id).with_for_update())
            row = await self._storerow(session, store_id, lock=True)
            await self._store.jobs.cancel_all(
                session, self._tenant, INGEST, select(literal(f"{store_id}/") + MemberRow.file_id).where(MemberRow.store_id == store_id)
            )
            await self.batches.forget(session, store_id)
            for table in (PassageRow, MemberRow):
                await session.execute(delete(table).where(table.store_id == store_id))
            await session.delete(row)

    async def add_member(self, store_id: str, file_id: str, attributes: Attributes, chunk_tokens: int | None = None) -> Member:
        """Put a file into a store; the worker ingests it. Doing so again starts the ingestion again."""
        async with self._store.write() as session:
            await self._storerow(session, store_id)
            await self._enlist(session, store_id, {file_id: Placing(dict(attributes), chunk_tokens)})
        return await self.member(store_id, file_id)

    async def describe(self, store_id: str, file_id: str, attributes: Attributes) -> Member:
        """Give a file of a store other attributes; an ingestion under way is done once more, as it may have begun with the old ones."""
        async with self._store.write() as session:
            await self._storerow(session, store_id)
            await self._file(session, file_id, lock=True)
            row = await self._memberrow(session, store_id, file_id)
            row.attributes = dict(attributes)
            if row.status == "in_progress":
                await self._store.jobs.enqueue(session, self._tenant, INGEST, f"{store_id}/{file_id}", interrupt=False)
            await session.flush()
            await self.corpus.advance(session, [store_id])
        return shown(row)

    async def member(self, store_id: str, file_id: str) -> Member:
        """A file of a store."""
        async with self._store.session() as session:
            return shown(await self._memberrow(session, store_id, file_id))

    async def members(
        self, store_id: str, after: str = "", limit: int = 100, *, newest_first: bool = False, status: str | None = None
    ) -> list[Member]:
        """Files of a store by the age of the file, after one of them, which need not be there any more."""
        wanted = (MemberRow.store_id == store_id) & (MemberRow.tenant_id == self._tenant)
        if after:
            wanted &= (MemberRow.file_id < after) if newest_first else (MemberRow.file_id > after)
        if status:
            wanted &= MemberRow.status == status
        order = MemberRow.file_id.desc() if newest_first else MemberRow.file_id
        async with self._store.session() as session:
            await self._storerow(session, store_id)
            return [shown(row) for row in await session.scalars(select(MemberRow).where(wanted).order_by(order).limit(limit))]

    async def remove_member(self, store_id: str, file_id: str) -> None:
        """Take a file out of a store; the file itself stays."""
        async with self._store.write() as session:
            await self._storerow(session, store_id)
            await self._file(session, file_id, lock=True)
            row = await self._memberrow(session, store_id, file_id)
            await self._store.jobs.cancel(session, self._tenant, INGEST, f"{store_id}/{file_id}")
            await session.execute(delete(PassageRow).where(PassageRow.store_id == store_id, PassageRow.file_id == file_id))
            await session.delete(row)
            await self.corpus.advance(session, [store_id])

    async def complete(
        self,
        store_id: str,
        file_id: str,
        title: str,
        text: str,
        chunks: Sequence[Chunk],
        vectors: Vectors,
        job: Job | None = None,
        recipe: str | None = None,
    ) -> None:
        """Keep what an ingestion made, in place of what was there, and end its job; raises LeaseLost."""
        async with self._store.session() as session:
            lock = await self._lock(session, await self._file(session, file_id))
        passages = await asyncio.to_thread(
            lambda: [passage(lock, store_id, file_id, *one) | {"tenant_id": self._tenant} for one in zip(chunks, vectors, strict=True)]
        )
        sealed = await seal(lock, text.encode(), "files", file_id, "text")
        async with self._store.write() as session:
            file = await self._file(session, file_id, lock=True)
            if job:
                await self._store.jobs.end(session, job)
            member = await self._memberrow(session, store_id, file_id)
            await session.execute(delete(PassageRow).where(PassageRow.store_id == store_id, PassageRow.file_id == file_id))
            if passages:
                await session.execute(insert(PassageRow), passages)
            file.title = lock.seal(title.encode(), "files", file_id, "title")
            file.text = sealed
            member.status, member.usage_bytes = "completed", sum(4 * vectors.shape[1] + one.end - one.start for one in chunks)
            member.recipe = recipe
            await session.flush()
            await self.corpus.advance(session, [store_id])

    async def fail(self, store_id: str, file_id: str, code: str, message: str, job: Job | None = None) -> None:
        """Mark an ingestion failed, with the reason its owner will read, and end its job; raises LeaseLost."""
        async with self._store.jobs.finishing(job, "failed", code) if job else self._store.write() as session:
            member = await self._memberrow(session, store_id, file_id)
            member.status, member.error_code, member.error_message = "failed", code, message

    async def passages(self, file_id: str) -> list[Chunk]:
        """The passages of a file in document order, as the store that ingested it last holds them."""
        text, lock = await self._text(file_id)
        owned = (MemberRow.file_id == file_id) & (MemberRow.tenant_id == self._tenant) & (MemberRow.status == "completed")
        last = select(MemberRow.store_id).where(owned).order_by(MemberRow.created_at.desc(), MemberRow.store_id).limit(1)
        async with self._store.session() as session:
            return [chunk(row, text, lock) for row in await session.scalars(self._of_file(file_id, last.scalar_subquery()))]

    async def filed(self, store_id: str, file_id: str) -> tuple[Sequence[Chunk], Vectors]:
        """The passages of a file in one store, in document order, and their vectors; what the index is filled with."""
        await self.member(store_id, file_id)
        async with self._store.session() as session:
            file = await self._file(session, file_id, FileRow.text)
            lock = await self._lock(session, file)
            rows = (await session.scalars(self._of_file(file_id, store_id).options(undefer(PassageRow.vector)))).all()
        made = await asyncio.to_thread(opened, file, rows, lock)
        if made is None:
            raise NotFound(f"file {file_id} has not been ingested")
        return made.chunks, made.vectors

    def _of_file(self, file_id: str, store_id: Any) -> Select[PassageRow]:
        mine = (PassageRow.file_id == file_id) & (PassageRow.tenant_id == self._tenant)
        return select(PassageRow).where(mine & (PassageRow.store_id == store_id)).order_by(PassageRow.number)

    async def _storerow(self, session: AsyncSession, store_id: str, *, lock: bool = False) -> StoreRow:
        wanted = select(StoreRow).where(StoreRow.id == checked("vector store", store_id), StoreRow.tenant_id == self._tenant)
        return found(await session.scalar(wanted.with_for_update() if lock else wanted), "vector store", store_id)

    async def _memberrow(self, session: AsyncSession, store_id: str, file_id: str) -> MemberRow:
        await self._storerow(session, store_id)
        row = await session.get(MemberRow, (store_id, checked("file", file_id)))
        return found(row if row and row.tenant_id == self._tenant else None, "file", file_id)

    async def _enlist(self, session: AsyncSession, store_id: str, wanted: Mapping[str, Placing]) -> None:
        """Put files into a store, all of them or none."""
        has_store, there = await enlist(self._store, session, self._tenant, store_id, wanted)
        for file_id in wanted:
            found(file_id if file_id in there else None, "file", checked("file", file_id))
        found(has_store or None, "vector store", store_id)

    async def _counted(self, session: AsyncSession, rows: Sequence[StoreRow]) -> list[VectorStore]:
        wanted = MemberRow.store_id.in_([row.id for row in rows])
        counts = select(MemberRow.store_id, MemberRow.status, func.count(), func.sum(MemberRow.usage_bytes))
        states = (await session.execute(counts.where(wanted).group_by(MemberRow.store_id, MemberRow.status))).all()
        used = {row.id: sum(size or 0 for store, _, _, size in states if store == row.id) for row in rows}
        counted = {row.id: {status: count for store, status, count, _ in states if store == row.id} for row in rows}
        return [
            VectorStore(row.id, row.name, row.created_at, int(used[row.id]), counted[row.id], dict(row.labels), row.description)
            for row in rows
        ]
