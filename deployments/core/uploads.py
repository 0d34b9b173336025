"""Files that come in parts: each part is sealed as it arrives, and nothing of them is left once the upload has ended."""

import asyncio
import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import undefer

from deployments.core.errors import InvalidRequest, RateLimited, TooLarge
from deployments.core.files import Files, seal, unseal
from deployments.core.ids import checked, found, new_id
from deployments.core.jobs import EXPIRE
from deployments.core.tables import UploadPartRow, UploadRow

if TYPE_CHECKING:
    from deployments.core.store import Store

MAX_PARTS = 1000
"""Parts of one upload."""

_TABLE = "upload_parts"


class Upload(msgspec.Struct, frozen=True):
    """A file that comes in parts; `status` is pending, completed, cancelled or expired."""

    id: str
    filename: str
    purpose: str
    bytes: int
    created_at: int
    expires_at: int
    status: str
    file_id: str | None


class UploadPart(msgspec.Struct, frozen=True):
    """A part that has arrived."""

    id: str
    upload_id: str
    created_at: int


class Uploads:
    """The uploads of one tenant."""

    def __init__(self, files: Files, store: "Store", tenant: str):
        self._files = files
        self._store = store
        self._tenant = tenant

    async def add(self, filename: str, purpose: str, size: int, life_s: int, most_open: int, keep_s: int | None = None) -> Upload:
        """Begin an upload of that many bytes, which ends by itself after `life_s`; raises RateLimited where too many are open."""
        name, now = new_id("upload_"), int(self._store.clock())
        row = UploadRow(
            id=name,
            tenant_id=self._tenant,
            filename=filename,
            purpose=purpose,
            size=size,
            created_at=now,
            expires_at=now + life_s,
            status="pending",
            keep_s=keep_s,
        )
        async with self._store.write() as session:
            row.data_key = (await self._store.lock(session, self._tenant)).new("uploads", name)[1]
            mine = (UploadRow.tenant_id == self._tenant) & (UploadRow.status == "pending") & (UploadRow.expires_at > now)
            if (await session.scalar(select(func.count()).select_from(UploadRow).where(mine)) or 0) >= most_open:
                message = f"at most {most_open} uploads may be open at once; complete or cancel one"
                raise RateLimited(message, code="too_many_uploads", retry_after_s=60)
            session.add(row)
            await self._store.jobs.enqueue(session, self._tenant, EXPIRE, f"upload/{name}", delay_s=life_s)
        return self._shown(row)

    async def get(self, upload_id: str) -> Upload:
        """An upload by id."""
        async with self._store.session() as session:
            return self._shown(await self._row(session, upload_id))

    async def pending(self, upload_id: str) -> None:
        """Return where the upload takes parts; raises InvalidRequest where it has ended."""
        async with self._store.session() as session:
            await self._open(session, upload_id)

    async def put(self, upload_id: str, content: bytes) -> UploadPart:
        """Keep a part. Raises InvalidRequest where the upload has ended, and TooLarge where it would be longer than it said."""
        async with self._store.session() as session:
            row = await self._open(session, upload_id)
            lock = (await self._store.lock(session, self._tenant)).of(row.data_key, "uploads", upload_id)
        name = new_id("part_")
        sealed = await seal(lock, content, _TABLE, name, "content")
        part = UploadPartRow(id=name, upload_id=upload_id, tenant_id=self._tenant, size=len(content), content=sealed)
        part.created_at = int(self._store.clock())
        async with self._store.write() as session:
            row = await self._open(session, upload_id, lock=True)
            sums = select(func.count(), func.coalesce(func.sum(UploadPartRow.size), 0)).where(UploadPartRow.upload_id == upload_id)
            count, held = (await session.execute(sums)).one()
            if count >= MAX_PARTS:
                raise InvalidRequest(f"an upload has at most {MAX_PARTS} parts", param="data", code="invalid_value")
            if int(held) + len(content) > row.size:
                raise TooLarge(f"the parts are more than the {row.size} bytes of the upload", param="data", code="file_too_large")
            session.add(part)
        return UploadPart(name, upload_id, part.created_at)

    async def complete(self, upload_id: str, part_ids: Sequence[str], md5: str | None = None) -> Upload:
        """Make a file of the parts in that order; one that is completed stays as it is, for who has missed the answer.

        Raises InvalidRequest where a part is not there or named twice, and where size or MD5 are not what was said.
        """
        async with self._store.session() as session:
            row = await self._row(session, upload_id)
            if row.status == "completed":
                return self._shown(row)
            row = await self._open(session, upload_id)
            keys = await self._store.lock(session, self._tenant)
            sizes = await session.execute(select(UploadPartRow.id, UploadPartRow.size).where(UploadPartRow.upload_id == upload_id))
        _check(row, part_ids, dict(sizes.all()))
        content = await self._joined(row, part_ids)
        if md5 is not None and await asyncio.to_thread(lambda: hashlib.md5(content, usedforsecurity=False).hexdigest()) != md5.lower():
            raise InvalidRequest("md5 is not that of the parts", param="md5", code="invalid_value")
        file, _ = await self._files.prepare_file(keys, row.filename, row.purpose, content, row.keep_s)
        async with self._store.write() as session:
            row = await self._row(session, upload_id, lock=True)
            if row.status != "completed":
                row = await self._open(session, upload_id)
                await self._files.keep_file(session, file)
                row.file_id = file.id
                await self._end(session, row, "completed")
        return self._shown(row)

    async def cancel(self, upload_id: str) -> Upload:
        """Give an upload up, and drop its parts; raises InvalidRequest where it has ended otherwise."""
        async with self._store.write() as session:
            row = await self._row(session, upload_id, lock=True)
            if row.status != "cancelled":
                row = await self._open(session, upload_id)
                await self._end(session, row, "cancelled")
        return self._shown(row)

    async def expire(self, upload_id: str) -> None:
        """End an upload whose time is over, and drop its parts; one that has ended already stays as it is."""
        async with self._store.write() as session:
            row = await self._row(session, upload_id, lock=True)
            if row.status == "pending":
                await self._end(session, row, "expired")

    async def _joined(self, row: UploadRow, part_ids: Sequence[str]) -> bytearray:
        """The parts in one piece; only one of them is held beside it at a time."""
        content = bytearray()
        for name in part_ids:
            wanted = select(UploadPartRow).where(UploadPartRow.id == name).options(undefer(UploadPartRow.content))
            async with self._store.session() as session:
                lock = (await self._store.lock(session, self._tenant)).of(row.data_key, "uploads", row.id)
                part = found(await session.scalar(wanted), "part", name)
            content += await unseal(lock, part.content, _TABLE, name, "content")
        return content

    async def _end(self, session: AsyncSession, row: UploadRow, status: str) -> None:
        row.status = status
        await session.execute(delete(UploadPartRow).where(UploadPartRow.upload_id == row.id))

    async def _open(self, session: AsyncSession, upload_id: str, *, lock: bool = False) -> UploadRow:
        row = await self._row(session, upload_id, lock=lock)
        if (status := self._shown(row).status) != "pending":
            raise InvalidRequest(f"the upload is {status}", param="upload_id", code="invalid_value")
        return row

    async def _row(self, session: AsyncSession, upload_id: str, *, lock: bool = False) -> UploadRow:
        wanted = select(UploadRow).where(UploadRow.id == checked("upload", upload_id), UploadRow.tenant_id == self._tenant)
        return found(await session.scalar(wanted.with_for_update() if lock else wanted), "upload", upload_id)

    def _shown(self, row: UploadRow) -> Upload:
        over = row.status == "pending" and self._store.clock() >= row.expires_at
        status = "expired" if over else row.status
        return Upload(row.id, row.filename, row.purpose, row.size, row.created_at, row.expires_at, status, row.file_id)


def _check(row: UploadRow, part_ids: Sequence[str], sizes: dict[str, int]) -> None:
    """Raises InvalidRequest where the parts are not those of the upload, each once, and all of its bytes."""
    for place, name in enumerate(part_ids):
        if name not in sizes or name in part_ids[:place]:
            why = "is named twice" if name in sizes else "is no part of this upload"
            raise InvalidRequest(f"'{name}' {why}", param=f"part_ids[{place}]", code="invalid_value")
    if (total := sum(sizes[name] for name in part_ids)) != row.size:
        raise InvalidRequest(f"the parts have {total} bytes, the upload {row.size}", param="part_ids", code="invalid_value")
