"""Files that were read and embedded elsewhere, kept many at a time: no job of a worker stands between them and their store."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import insert, select, update

from deployments.core.ids import checked, found
from deployments.core.ingested import Made, passage
from deployments.core.members import Member, shown
from deployments.core.tables import FileRow, MemberRow, PassageRow, StoreRow
from deployments.core.types import Source

if TYPE_CHECKING:
    from deployments.core.store import Store, TenantStore


class Whole(msgspec.Struct, frozen=True):
    """A file with its bytes and all that was made of them; the recipe says how."""

    filename: str
    content: bytes
    attributes: Mapping[str, str]
    made: Made
    recipe: str


class Filing:
    """Puts files into the vector stores of one tenant in two steps: `put` keeps them in SQL, and `complete` follows the index.

    A crash in between leaves files that are in progress with all their passages: `unfinished` finds them, and nothing has to be
    embedded again.
    """

    def __init__(self, mine: "TenantStore", store: "Store", tenant: str):
        self._mine, self._store, self._tenant = mine, store, tenant

    async def put(self, store_id: str, files: Sequence[Whole]) -> list[Source]:
        """Keep files with their passages, all in one transaction, in progress; returns how the index names each. Raises NotFound."""
        keys = await self._mine.lock()
        rows, members, passages, sources = list[FileRow](), list[dict[str, Any]](), list[dict[str, Any]](), list[Source]()
        for whole in files:
            row, lock = await self._mine.prepare_file(keys, whole.filename, "assistants", whole.content, None)
            row.title = lock.seal(whole.made.title.encode(), "files", row.id, "title")
            row.text = lock.seal(whole.made.text.encode(), "files", row.id, "text")
            rows.append(row)
            members.append(self._member(store_id, row, whole))
            passages += await asyncio.to_thread(
                lambda lock=lock, file_id=row.id, made=whole.made: [
                    passage(lock, store_id, file_id, *one) | {"tenant_id": self._tenant}
                    for one in zip(made.chunks, made.vectors, strict=True)
                ]
            )
            sources.append(Source(row.id, row.filename, whole.made.title, dict(whole.attributes), row.created_at))
        async with self._store.write() as session:
            wanted = select(StoreRow.id).where(StoreRow.id == checked("vector store", store_id), StoreRow.tenant_id == self._tenant)
            found(await session.scalar(wanted.with_for_update(read=True, key_share=True)), "vector store", store_id)
            session.add_all(rows)
            await session.flush()
            await session.execute(insert(MemberRow), members)
            if passages:
                await session.execute(insert(PassageRow), passages)
        return sources

    async def complete(self, store_id: str, file_ids: Sequence[str]) -> None:
        """Mark files completed, now that the index has them."""
        mine = (MemberRow.store_id == store_id) & (MemberRow.tenant_id == self._tenant) & MemberRow.file_id.in_(file_ids)
        async with self._store.write() as session:
            await session.execute(update(MemberRow).where(mine).values(status="completed"))
            await session.flush()
            await self._mine.corpus.advance(session, [store_id])

    async def unfinished(self, store_id: str) -> list[Member]:
        """Files that `put` has kept and `complete` has not seen."""
        mine = (MemberRow.store_id == store_id) & (MemberRow.tenant_id == self._tenant) & (MemberRow.status == "in_progress")
        kept = select(MemberRow).where(mine, MemberRow.recipe.is_not(None)).order_by(MemberRow.file_id)
        async with self._store.session() as session:
            return [shown(row) for row in await session.scalars(kept)]

    def _member(self, store_id: str, row: FileRow, whole: Whole) -> dict[str, Any]:
        used = sum(4 * whole.made.vectors.shape[1] + one.end - one.start for one in whole.made.chunks)
        return {
            "store_id": store_id,
            "file_id": row.id,
            "tenant_id": self._tenant,
            "status": "in_progress",
            "attributes": dict(whole.attributes),
            "created_at": row.created_at,
            "usage_bytes": used,
            "recipe": whole.recipe,
        }
