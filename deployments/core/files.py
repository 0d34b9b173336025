"""What callers upload, in SQL: the bytes and, once a worker has read them, the text; both are sealed."""

import asyncio
import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import msgspec
from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import undefer

from deployments.core.corpus import Corpus
from deployments.core.errors import NotFound
from deployments.core.ids import checked, found, new_id
from deployments.core.jobs import EXPIRE, INGEST
from deployments.core.tables import FileRow, MemberRow, PassageRow
from deployments.core.vault import Lock

if TYPE_CHECKING:
    from deployments.core.store import Store

Result = TypeVar("Result")

_SMALL_BYTES = 1 << 20
"""What is larger is digested, sealed and opened in a thread."""


class StoredFile(msgspec.Struct, frozen=True):
    """An uploaded file without its content."""

    id: str
    filename: str
    purpose: str
    sha256: str
    bytes: int
    created_at: int
    title: str | None
    expires_at: int | None = None


class Files:
    """The files of one tenant."""

    def __init__(self, store: "Store", tenant: str):
        self._store = store
        self._tenant = tenant
        self.corpus = Corpus(store, tenant)

    async def add_file(self, filename: str, purpose: str, content: bytes, keep_s: int | None = None) -> StoredFile:
        """Keep an uploaded file, for good or for so many seconds."""
        async with self._store.session() as session:
            keys = await self._store.lock(session, self._tenant)
        row, lock = await self.prepare_file(keys, filename, purpose, content, keep_s)
        async with self._store.write() as session:
            await self.keep_file(session, row)
        return _file(row, lock)

    async def file(self, file_id: str) -> StoredFile:
        """A file by id."""
        async with self._store.session() as session:
            row = await self._file(session, file_id)
            return _file(row, await self._lock(session, row))

    async def files(self, after: str = "", limit: int = 100, *, newest_first: bool = False, purpose: str | None = None) -> list[StoredFile]:
        """Files by their age, after one of them, which need not be there any more; their titles stay sealed."""
        wanted = FileRow.tenant_id == self._tenant
        if after:
            wanted &= (FileRow.id < after) if newest_first else (FileRow.id > after)
        if purpose:
            wanted &= FileRow.purpose == purpose
        order = FileRow.id.desc() if newest_first else FileRow.id
        async with self._store.session() as session:
            return [_file(row) for row in await session.scalars(select(FileRow).where(wanted).order_by(order).limit(limit))]

    async def content(self, file_id: str) -> bytes:
        """The bytes of a file as they were uploaded."""
        async with self._store.session() as session:
            row = await self._file(session, file_id, FileRow.content)
            lock = await self._lock(session, row)
        return await unseal(lock, row.content, "files", file_id, "content")

    async def text(self, file_id: str) -> str:
        """The text of a file as it was parsed; raises NotFound where it has not been ingested."""
        return (await self._text(file_id))[0]

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
            await self._store.jobs.cancel_all(session, self._tenant, INGEST, [f"{store_id}/{file_id}" for store_id in stores])
            await session.execute(delete(PassageRow).where(PassageRow.file_id == file_id))
            await session.execute(delete(MemberRow).where(MemberRow.file_id == file_id))
            await session.delete(row)
            await self.corpus.advance(session, stores)
        return stores

    async def prepare_file(
        self, keys: Lock, filename: str, purpose: str, content: bytes | bytearray, keep_s: int | None
    ) -> tuple[FileRow, Lock]:
        """The row of a file that is not kept yet, and its lock."""
        name, now = new_id("file-"), int(self._store.clock())
        lock, data_key = keys.new("files", name)
        sealed = await seal(lock, content, "files", name, "content")
        digest = await _aside(len(content), lambda: hashlib.sha256(content).hexdigest())
        row = FileRow(
            id=name,
            tenant_id=self._tenant,
            filename=filename,
            purpose=purpose,
            sha256=digest,
            size=len(content),
            created_at=now,
            data_key=data_key,
            content=sealed,
            expires_at=now + keep_s if keep_s else None,
        )
        return row, lock

    async def keep_file(self, session: AsyncSession, row: FileRow) -> None:
        """Keep a file that was prepared, and see to its end where it has one."""
        session.add(row)
        if row.expires_at:
            await self._store.jobs.enqueue(session, self._tenant, EXPIRE, f"file/{row.id}", delay_s=row.expires_at - row.created_at)

    async def _text(self, file_id: str) -> tuple[str, Lock]:
        async with self._store.session() as session:
            row = await self._file(session, file_id, FileRow.text)
            lock = await self._lock(session, row)
        if row.text is None:
            raise NotFound(f"file {file_id} has not been ingested")
        return (await unseal(lock, row.text, "files", file_id, "text")).decode(), lock

    async def _lock(self, session: AsyncSession, row: FileRow) -> Lock:
        return (await self._store.lock(session, self._tenant)).of(row.data_key, "files", row.id)

    async def _file(self, session: AsyncSession, file_id: str, *columns: object, lock: bool = False) -> FileRow:
        wanted = select(FileRow).where(FileRow.id == checked("file", file_id), FileRow.tenant_id == self._tenant)
        wanted = wanted.options(*(undefer(column) for column in columns))  # type: ignore[arg-type]
        return found(await session.scalar(wanted.with_for_update() if lock else wanted), "file", file_id)


async def seal(lock: Lock, content: bytes | bytearray, table: str, row: str, column: str) -> bytes:
    """A sealed value; a large one is sealed in a thread, so that others are not kept waiting."""
    return await _aside(len(content), lambda: lock.seal(content, table, row, column))


async def unseal(lock: Lock, sealed: bytes, table: str, row: str, column: str) -> bytes:
    """The same the other way."""
    return await _aside(len(sealed), lambda: lock.open(sealed, table, row, column))


async def _aside(size: int, work: Callable[[], Result]) -> Result:
    return work() if size < _SMALL_BYTES else await asyncio.to_thread(work)


def _file(row: FileRow, lock: Lock | None = None) -> StoredFile:
    title = None if lock is None or row.title is None else lock.open(row.title, "files", row.id, "title").decode()
    return StoredFile(row.id, row.filename, row.purpose, row.sha256, row.size, row.created_at, title, row.expires_at)
