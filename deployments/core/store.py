"""What must survive, in SQL. `store.of(principal)` is the only door to what a tenant owns."""

import contextlib
import hashlib
import re
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import TypeVar

import msgspec
from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import undefer

from deployments.core.errors import NotFound
from deployments.core.sql import WRITES, open_engine
from deployments.core.tables import FileRow, MemberRow, PassageRow, StoreRow
from deployments.core.types import Chunk, Principal, Vectors

Row = TypeVar("Row")
Attributes = Mapping[str, str | float | bool]

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def new_id(prefix: str) -> str:
    """An unguessable id such as `file-3f…`: milliseconds since 1970, then 80 random bits, so that ids sort by age."""
    return f"{prefix}{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


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


class Work(msgspec.Struct, frozen=True):
    """A leased ingestion: which file goes into which store, for whom, at which attempt (from 1)."""

    tenant: str
    store_id: str
    file_id: str
    attempt: int

    @property
    def principal(self) -> Principal:
        """Whom the worker acts for: the tenant of the job, with no key behind it."""
        return Principal(self.tenant, "worker", frozenset({"files:read", "files:write"}))


class Store:
    """The database; opens nothing until it is first used."""

    def __init__(self, url: str, clock: Callable[[], float] = time.time):
        self.engine = open_engine(url)
        self.clock = clock
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

    async def lease(self, seconds: float) -> Work | None:
        """Take the oldest ingestion that nobody works on, for that long; None where there is none."""
        now = int(self.clock())
        waiting = (MemberRow.status == "in_progress") & (MemberRow.leased_until <= now)
        async with self.write() as session:
            oldest = select(MemberRow).where(waiting).order_by(MemberRow.created_at, MemberRow.file_id).limit(1)
            row = await session.scalar(oldest.with_for_update(skip_locked=True))
            if row is None:
                return None
            taken = await session.execute(
                update(MemberRow)
                .where(MemberRow.store_id == row.store_id, MemberRow.file_id == row.file_id, waiting)
                .values(leased_until=int(now + seconds), attempts=MemberRow.attempts + 1)
                .execution_options(synchronize_session=False)
            )
            if not taken.rowcount:  # type: ignore[attr-defined]
                return None
            return Work(row.tenant_id, row.store_id, row.file_id, row.attempts + 1)

    async def extend(self, work: Work, seconds: float) -> bool:
        """Keep a lease for that much longer from now; False where the work is gone or somebody else's."""
        return await self._hold(work, seconds, work.attempt)

    async def release(self, work: Work, seconds: float = 0, *, counted: bool = True) -> None:
        """Give a lease back; the work is taken up again no sooner than that much later. An attempt may be left uncounted."""
        await self._hold(work, seconds, work.attempt if counted else work.attempt - 1)

    async def _hold(self, work: Work, seconds: float, attempts: int) -> bool:
        mine = (MemberRow.store_id == work.store_id) & (MemberRow.file_id == work.file_id) & (MemberRow.tenant_id == work.tenant)
        mine &= (MemberRow.status == "in_progress") & (MemberRow.attempts == work.attempt)
        change = update(MemberRow).where(mine).values(leased_until=int(self.clock() + seconds), attempts=attempts)
        async with self.write() as session:
            held = await session.execute(change)
        return bool(held.rowcount)  # type: ignore[attr-defined]

    async def backlog(self) -> int:
        """How many ingestions are not done."""
        async with self.session() as session:
            return await session.scalar(select(func.count()).select_from(MemberRow).where(MemberRow.status == "in_progress")) or 0

    async def close(self) -> None:
        """Close every connection."""
        await self.engine.dispose()


class TenantStore:
    """What one tenant owns. Raises NotFound for an id that is not this tenant's."""

    def __init__(self, store: Store, tenant: str):
        self._store = store
        self._tenant = tenant

    async def add_file(self, filename: str, purpose: str, content: bytes) -> StoredFile:
        """Keep an uploaded file."""
        row = FileRow(
            id=new_id("file-"),
            tenant_id=self._tenant,
            filename=filename,
            purpose=purpose,
            sha256=hashlib.sha256(content).hexdigest(),
            size=len(content),
            created_at=int(self._store.clock()),
            content=content,
        )
        async with self._store.write() as session:
            session.add(row)
        return _file(row)

    async def file(self, file_id: str) -> StoredFile:
        """A file by id."""
        async with self._store.session() as session:
            return _file(await self._file(session, file_id))

    async def content(self, file_id: str) -> bytes:
        """The bytes of a file as they were uploaded."""
        async with self._store.session() as session:
            return (await self._file(session, file_id, FileRow.content)).content

    async def text(self, file_id: str) -> str:
        """The text of a file as it was parsed; raises NotFound where it has not been ingested."""
        async with self._store.session() as session:
            text = (await self._file(session, file_id, FileRow.text)).text
        if text is None:
            raise NotFound(f"file {file_id} has not been ingested")
        return text

    async def stores_with(self, file_id: str) -> dict[str, str]:
        """The ids of the stores that hold a file, and its status in each."""
        held = select(MemberRow.store_id, MemberRow.status).where(MemberRow.file_id == file_id, MemberRow.tenant_id == self._tenant)
        async with self._store.session() as session:
            return dict((await session.execute(held)).all())

    async def delete_file(self, file_id: str) -> list[str]:
        """Delete a file with its passages; returns the ids of the stores that held it."""
        async with self._store.write() as session:
            row = await self._file(session, file_id)
            stores = list(await session.scalars(select(MemberRow.store_id).where(MemberRow.file_id == file_id)))
            await session.execute(delete(PassageRow).where(PassageRow.file_id == file_id))
            await session.execute(delete(MemberRow).where(MemberRow.file_id == file_id))
            await session.delete(row)
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
            await self._file(session, file_id)
            row = await session.get(MemberRow, (store_id, file_id)) or MemberRow(store_id=store_id, file_id=file_id, tenant_id=self._tenant)
            row.status, row.error_code, row.error_message, row.attributes = "in_progress", None, None, dict(attributes)
            row.created_at, row.attempts, row.leased_until, row.usage_bytes = int(self._store.clock()), 0, 0, 0
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
            row = await self._memberrow(session, store_id, file_id)
            await session.execute(delete(PassageRow).where(PassageRow.store_id == store_id, PassageRow.file_id == file_id))
            await session.delete(row)

    async def complete(self, store_id: str, file_id: str, title: str, text: str, chunks: Sequence[Chunk], vectors: Vectors) -> None:
        """Keep what an ingestion made, in place of what was there, and mark it completed."""
        passages = [
            PassageRow(
                store_id=store_id,
                file_id=file_id,
                number=chunk.number,
                tenant_id=self._tenant,
                start=chunk.start,
                end=chunk.end,
                tokens=chunk.tokens,
                headings=list(chunk.headings),
                vector=vector.astype("<f4").tobytes(),
            )
            for chunk, vector in zip(chunks, vectors, strict=True)
        ]
        async with self._store.write() as session:
            member = await self._memberrow(session, store_id, file_id)
            file = await self._file(session, file_id)
            await session.execute(delete(PassageRow).where(PassageRow.store_id == store_id, PassageRow.file_id == file_id))
            session.add_all(passages)
            file.title, file.text = title, text
            member.status, member.usage_bytes = "completed", sum(len(row.vector) + row.end - row.start for row in passages)

    async def fail(self, store_id: str, file_id: str, code: str, message: str) -> None:
        """Mark an ingestion failed, with the reason its owner will read."""
        async with self._store.write() as session:
            member = await self._memberrow(session, store_id, file_id)
            member.status, member.error_code, member.error_message = "failed", code, message

    async def passages(self, file_id: str) -> list[Chunk]:
        """The passages of a file in document order, as the store that ingested it last holds them."""
        text = await self.text(file_id)
        owned = (MemberRow.file_id == file_id) & (MemberRow.tenant_id == self._tenant) & (MemberRow.status == "completed")
        last = select(MemberRow.store_id).where(owned).order_by(MemberRow.created_at.desc(), MemberRow.store_id).limit(1)
        wanted = (PassageRow.file_id == file_id) & (PassageRow.tenant_id == self._tenant) & (PassageRow.store_id == last.scalar_subquery())
        async with self._store.session() as session:
            rows = await session.scalars(select(PassageRow).where(wanted).order_by(PassageRow.number))
            return [Chunk(row.number, text[row.start : row.end], tuple(row.headings), row.start, row.end, row.tokens) for row in rows]

    async def _file(self, session: AsyncSession, file_id: str, *columns: object) -> FileRow:
        wanted = select(FileRow).where(FileRow.id == _checked("file", file_id), FileRow.tenant_id == self._tenant)
        row = await session.scalar(wanted.options(*(undefer(column) for column in columns)))  # type: ignore[arg-type]
        return _found(row, "file", file_id)

    async def _storerow(self, session: AsyncSession, store_id: str) -> StoreRow:
        wanted = select(StoreRow).where(StoreRow.id == _checked("vector store", store_id), StoreRow.tenant_id == self._tenant)
        return _found(await session.scalar(wanted), "vector store", store_id)

    async def _memberrow(self, session: AsyncSession, store_id: str, file_id: str) -> MemberRow:
        await self._storerow(session, store_id)
        row = await session.get(MemberRow, (store_id, _checked("file", file_id)))
        return _found(row if row and row.tenant_id == self._tenant else None, "file", file_id)

    async def _counted(self, session: AsyncSession, rows: Sequence[StoreRow]) -> list[VectorStore]:
        wanted = MemberRow.store_id.in_([row.id for row in rows])
        counts = select(MemberRow.store_id, MemberRow.status, func.count(), func.sum(MemberRow.usage_bytes))
        states = (await session.execute(counts.where(wanted).group_by(MemberRow.store_id, MemberRow.status))).all()
        used = {row.id: sum(size or 0 for store, _, _, size in states if store == row.id) for row in rows}
        counted = {row.id: {status: count for store, status, count, _ in states if store == row.id} for row in rows}
        return [VectorStore(row.id, row.name, row.created_at, int(used[row.id]), counted[row.id], dict(row.labels)) for row in rows]


def _checked(kind: str, name: str) -> str:
    """An id that could be one: what PostgreSQL would refuse as text, such as NUL, is not found like any other."""
    if not _ID.fullmatch(name):
        raise NotFound(f"no {kind} with that id")
    return name


def _found(row: Row | None, kind: str, name: str) -> Row:
    if row is None:
        raise NotFound(f"no {kind} with the id '{name}'")
    return row


def _file(row: FileRow) -> StoredFile:
    return StoredFile(row.id, row.filename, row.purpose, row.sha256, row.size, row.created_at, row.title)


def _member(row: MemberRow) -> Member:
    return Member(
        row.store_id, row.file_id, row.status, row.error_code, row.error_message, dict(row.attributes), row.created_at, row.usage_bytes
    )
