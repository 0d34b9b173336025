"""The files of a vector store as SQL keeps them, and how one or many get in."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from deployments.core.filters import Value
from deployments.core.ids import is_id
from deployments.core.jobs import INGEST
from deployments.core.sql import INSERTS
from deployments.core.tables import FileRow, MemberRow, StoreRow

if TYPE_CHECKING:
    from deployments.core.store import Store


class Member(msgspec.Struct, frozen=True):
    """A file in a vector store and how its ingestion stands; `chunk_tokens` bounds its passages where that was asked for."""

    store_id: str
    file_id: str
    status: str
    error_code: str | None
    error_message: str | None
    attributes: dict[str, Value]
    created_at: int
    usage_bytes: int
    chunk_tokens: int | None = None


class Placing(msgspec.Struct, frozen=True):
    """How a file is put into a store."""

    attributes: dict[str, Value] = {}
    chunk_tokens: int | None = None


def shown(row: MemberRow) -> Member:
    """What a row says."""
    error, made = (row.error_code, row.error_message), (row.created_at, row.usage_bytes, row.chunk_tokens)
    return Member(row.store_id, row.file_id, row.status, *error, dict(row.attributes), *made)


async def enlist(store: "Store", session: AsyncSession, tenant: str, store_id: str, wanted: Mapping[str, Placing]) -> tuple[bool, set[str]]:
    """Put those files into the store that the tenant has, in five statements for all; each is ingested anew.

    Returns whether the tenant has the store, without which nothing is done, and which files it has.
    """
    mine = (FileRow.tenant_id == tenant) & FileRow.id.in_([file_id for file_id in wanted if is_id(file_id)])
    there = set(await session.scalars(select(FileRow.id).where(mine).order_by(FileRow.id).with_for_update()))
    # the store after the files, as everywhere: who deletes it at this moment is waited for
    named = select(StoreRow.id).where(StoreRow.id == store_id, StoreRow.tenant_id == tenant)
    if await session.scalar(named.with_for_update(read=True, key_share=True)) is None:
        return False, there
    await store.jobs.enqueue_all(session, tenant, INGEST, [f"{store_id}/{file_id}" for file_id in there])
    now = int(store.clock())
    begun: dict[str, Any] = {"status": "in_progress", "error_code": None, "error_message": None, "created_at": now, "usage_bytes": 0}
    rows = [
        {"store_id": store_id, "file_id": file_id, "tenant_id": tenant, **begun}
        | {"attributes": wanted[file_id].attributes, "chunk_tokens": wanted[file_id].chunk_tokens}
        for file_id in sorted(there)
    ]
    if rows:
        insert = INSERTS[store.engine.dialect.name](MemberRow)
        anew = begun | {name: insert.excluded[name] for name in ("attributes", "chunk_tokens")}
        await session.execute(insert.on_conflict_do_update(index_elements=[MemberRow.store_id, MemberRow.file_id], set_=anew), rows)
    return True, there
