"""What must survive, in SQL. `store.of(principal)` is the only door to what a tenant owns."""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence

import msgspec
from sqlalchemy import delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import undefer

from deployments.core.audit import Audit
from deployments.core.config import Settings
from deployments.core.conversations import Conversations
from deployments.core.corpus import Corpus
from deployments.core.errors import NotFound
from deployments.core.idempotency import Attempts
from deployments.core.ids import checked, found, new_id
from deployments.core.ingested import Ingested, chunk, passage
from deployments.core.jobs import INGEST, Job, Jobs
from deployments.core.responses import Responses
from deployments.core.sql import WRITES, open_engine
from deployments.core.tables import FileRow, MemberRow, PassageRow, StoreRow, TenantRow
from deployments.core.types import Chunk, Principal, Vectors
from deployments.core.vault import Lock, Vault

Attributes = Mapping[str, str | float | bool]

_SMALL_BYTES = 1 << 20
"""What is larger is sealed and opened in a thread."""

_MAX_LOCKS = 10_000
"""Tenants whose keys a process remembers."""


class StoredFile(msgspec.Struct, frozen=True):
    """An uploaded file without its content."""

    id: str
    filename: str
    purpose: str
    sha256: str
    bytes: int
    created_at: int
    title: str | None


class VectorStore(msgspec.Struct, frozen=True):
    """A collection, with how many of its files are in which state."""

    id: str
    name: str
    created_at: int
    usage_bytes: int
    counts: dict[str, int]
    metadata: dict[str, str] = {}


class Member(msgspec.Struct, frozen=True):
    """A file in a vector store and how its ingestion stands."""

    store_id: str
    file_id: str
    status: str
    error_code: str | None
    error_message: str | None
    attributes: dict[str, str | float | bool]
    created_at: int
    usage_bytes: int


def open_store(settings: Settings) -> "Store":
    """The database that the settings name."""
    return Store(settings.database_url, Vault(settings.root_bytes()))


class Store:
    """The database; opens nothing until it is first used."""

    def __init__(self, url: str, vault: Vault, clock: Callable[[], float] = time.time):
        self.engine = open_engine(url)
        self.vault = vault
        self.clock = clock
        self.jobs = Jobs(self)
        self.audit = Audit(self, vault.derived("audit head"))
        self._locks: dict[str, Lock] = {}
        self._sessions = async_sessionmaker(self.engine, expire_on_commit=False)
        self._writing = async_sessionmaker(self.engine.execution_options(**WRITES), expire_on_commit=False)

    def session(self) -> AsyncSession:
        """A session to read with, of one consistent moment."""
        return self._sessions()

    @contextlib.asynccontextmanager
    async def write(self) -> AsyncGenerator[AsyncSession]:
        """A transaction that commits at its end. SQLite has one writer at a time: await nothing but the session inside."""
        async with self._writing() as session, session.begin():
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


class TenantStore:
    """What one tenant owns. Raises NotFound for an id that is not this tenant's."""

    def __init__(self, store: Store, tenant: str):
        self._store = store
        self._tenant = tenant
        self.responses = Responses(store, tenant)
        self.conversations = Conversations(store, tenant)
        self.corpus = Corpus(store, tenant)
        self.attempts = Attempts(store, tenant)
        self.ingested = Ingested(store, tenant)

    async def lock(self) -> Lock:
        """The lock of the tenant, for what is kept outside SQL."""
        async with self._store.session() as session:
            return await self._store.lock(session, self._tenant)

    async def add_file(self, filename: str, purpose: str, content: bytes) -> StoredFile:
        """Keep an uploaded file."""
        name = new_id("file-")
        async with self._store.session() as session:
            lock, data_key = (await self._store.lock(session, self._tenant)).new("files", name)
        sealed = await _seal(lock, content, name, "content")
        row = FileRow(
            id=name,
            tenant_id=self._tenant,
            filename=filename,
            purpose=purpose,
            sha256=hashlib.sha256(content).hexdigest(),
            size=len(content),
            created_at=int(self._store.clock()),
            data_key=data_key,
            content=sealed,
        )
        async with self._store.write() as session:
            session.add(row)
        return _file(row, lock)

    async def file(self, file_id: str) -> StoredFile:
        """A file by id."""
        async with self._store.session() as session:
            row = await self._file(session, file_id)
            return _file(row, await self._lock(session, row))

    async def content(self, file_id: str) -> bytes:
        """The bytes of a file as they were uploaded."""
        async with self._store.session() as session:
            row = await self._file(session, file_id, FileRow.content)
            lock = await self._lock(session, row)
        return await _open(lock, row.content, file_id, "content")

    async def text(self, file_id: str) -> str:
        """The text of a file as it was parsed; raises NotFound where it has not been ingested."""
        return (await self._text(file_id))[0]

    async def _text(self, file_id: str) -> tuple[str, Lock]:
        async with self._store.session() as session:
            row = await self._file(session, file_id, FileRow.text)
            lock = await self._lock(session, row)
        if row.text is None:
            raise NotFound(f"file {file_id} has not been ingested")
        return (await _open(lock, row.text, file_id, "text")).decode(), lock

    async def stores_with(self, file_id: str) -> dict[str, str]:
        """The ids of the stores that hold a file, and its status in each."""
        held = select(MemberRow.store_id, MemberRow.status).where(MemberRow.file_id == file_id, MemberRow.tenant_id == self._tenant)
        async with self._store.session() as session:
            return dict((await session.execute(held)).all())

    async def delete_file(self, file_id: str) -> list[str]:
        """Delete a file with its passages; returns the ids of the stores that held it."""
        async with self._store.write() as session:
            row = await self._file(session, file_id, lock=True)
            stores = list(
                await session.scalars(select(MemberRow.store_id).where(MemberRow.file_id == file_id).order_by(MemberRow.store_id))
            )
            for store_id in stores:
                await self._store.jobs.cancel(session, self._tenant, INGEST, f"{store_id}/{file_id}")
            await session.execute(delete(PassageRow).where(PassageRow.file_id == file_id))
            await session.execute(delete(MemberRow).where(MemberRow.file_id == file_id))
            await session.delete(row)
            await self.corpus.advance(session, stores)
        return stores

    async def add_store(self, name: str, store_id: str | None = None, metadata: Mapping[str, str] | None = None) -> VectorStore:
        """Make a vector store."""
        row = StoreRow(
            id=store_id or new_id("vs_"),
            tenant_id=self._tenant,
            name=name,
            labels=dict(metadata or {}),
            created_at=int(self._store.clock()),
        )
        async with self._store.write() as session:
            session.add(row)
        return VectorStore(row.id, row.name, row.created_at, 0, {}, row.labels)

    async def stores(self) -> list[VectorStore]:
        """All vector stores of the tenant, oldest first."""
        async with self._store.session() as session:
            rows = await session.scalars(
                select(StoreRow).where(StoreRow.tenant_id == self._tenant).order_by(StoreRow.created_at, StoreRow.id)
            )
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

    async def add_member(self, store_id: str, file_id: str, attributes: Attributes) -> Member:
        """Put a file into a store; the worker ingests it. Doing so again starts the ingestion again."""
        async with self._store.write() as session:
            await self._storerow(session, store_id)
            await self._file(session, file_id, lock=True)
            await self._store.jobs.enqueue(session, self._tenant, INGEST, f"{store_id}/{file_id}")
            row = await session.get(MemberRow, (store_id, file_id)) or MemberRow(store_id=store_id, file_id=file_id, tenant_id=self._tenant)
            row.status, row.error_code, row.error_message, row.attributes = "in_progress", None, None, dict(attributes)
            row.created_at, row.usage_bytes = int(self._store.clock()), 0
            session.add(row)
        return _member(row)

    async def member(self, store_id: str, file_id: str) -> Member:
        """A file of a store."""
        async with self._store.session() as session:
            return _member(await self._memberrow(session, store_id, file_id))

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
            return [_member(row) for row in await session.scalars(select(MemberRow).where(wanted).order_by(order).limit(limit))]

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
        sealed = await _seal(lock, text.encode(), file_id, "text")
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
        wanted = (PassageRow.file_id == file_id) & (PassageRow.tenant_id == self._tenant) & (PassageRow.store_id == last.scalar_subquery())
        async with self._store.session() as session:
            rows = await session.scalars(select(PassageRow).where(wanted).order_by(PassageRow.number))
            return [chunk(row, text, lock) for row in rows]

    async def _lock(self, session: AsyncSession, row: FileRow) -> Lock:
        return (await self._store.lock(session, self._tenant)).of(row.data_key, "files", row.id)

    async def _file(self, session: AsyncSession, file_id: str, *columns: object, lock: bool = False) -> FileRow:
        wanted = select(FileRow).where(FileRow.id == checked("file", file_id), FileRow.tenant_id == self._tenant)
        wanted = wanted.options(*(undefer(column) for column in columns))  # type: ignore[arg-type]
        return found(await session.scalar(wanted.with_for_update() if lock else wanted), "file", file_id)

    async def _storerow(self, session: AsyncSession, store_id: str) -> StoreRow:
        wanted = select(StoreRow).where(StoreRow.id == checked("vector store", store_id), StoreRow.tenant_id == self._tenant)
        return found(await session.scalar(wanted), "vector store", store_id)

    async def _memberrow(self, session: AsyncSession, store_id: str, file_id: str) -> MemberRow:
        await self._storerow(session, store_id)
        row = await session.get(MemberRow, (store_id, checked("file", file_id)))
        return found(row if row and row.tenant_id == self._tenant else None, "file", file_id)

    async def _counted(self, session: AsyncSession, rows: Sequence[StoreRow]) -> list[VectorStore]:
        wanted = MemberRow.store_id.in_([row.id for row in rows])
        counts = select(MemberRow.store_id, MemberRow.status, func.count(), func.sum(MemberRow.usage_bytes))
        states = (await session.execute(counts.where(wanted).group_by(MemberRow.store_id, MemberRow.status))).all()
        used = {row.id: sum(size or 0 for store, _, _, size in states if store == row.id) for row in rows}
        counted = {row.id: {status: count for store, status, count, _ in states if store == row.id} for row in rows}
        return [VectorStore(row.id, row.name, row.created_at, int(used[row.id]), counted[row.id], dict(row.labels)) for row in rows]


async def _seal(lock: Lock, content: bytes, file_id: str, column: str) -> bytes:
    """A sealed value of a file; a large one in a thread, so that others are not kept waiting."""
    if len(content) < _SMALL_BYTES:
        return lock.seal(content, "files", file_id, column)
    return await asyncio.to_thread(lock.seal, content, "files", file_id, column)


async def _open(lock: Lock, sealed: bytes, file_id: str, column: str) -> bytes:
    """The same the other way."""
    if len(sealed) < _SMALL_BYTES:
        return lock.open(sealed, "files", file_id, column)
    return await asyncio.to_thread(lock.open, sealed, "files", file_id, column)


def _file(row: FileRow, lock: Lock) -> StoredFile:
    title = None if row.title is None else lock.open(row.title, "files", row.id, "title").decode()
    return StoredFile(row.id, row.filename, row.purpose, row.sha256, row.size, row.created_at, title)


def _member(row: MemberRow) -> Member:
    return Member(
        row.store_id, row.file_id, row.status, row.error_code, row.error_message, dict(row.attributes), row.created_at, row.usage_bytes
    )
