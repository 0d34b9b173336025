"""Conversations in SQL: their items in order, a summary of what is old, and vectors to find earlier items by; all of it sealed."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import undefer

from deployments.core.errors import NotFound
from deployments.core.ids import checked, found, new_id
from deployments.core.jobs import REMEMBER
from deployments.core.responses import Item
from deployments.core.tables import ConversationItemRow, ConversationRow
from deployments.core.types import Vector, Vectors
from deployments.core.vault import Lock

if TYPE_CHECKING:
    from deployments.core.store import Store

_encode = msgspec.json.encode
_decode = msgspec.json.Decoder(dict[str, str]).decode


class Conversation(msgspec.Struct, frozen=True):
    """A conversation without its items."""

    id: str
    created_at: int
    metadata: dict[str, str]


class Placed(msgspec.Struct, frozen=True):
    """An item and its position, which counts from 0 and is never used again."""

    position: int
    item: Item


class Summary(msgspec.Struct, frozen=True):
    """What was said before position `upto`, in short."""

    text: str
    upto: int


class Conversations:
    """The conversations of one tenant. Raises NotFound for an id that is not this tenant's."""

    def __init__(self, store: "Store", tenant: str):
        self._store = store
        self._tenant = tenant

    async def add(self, metadata: Mapping[str, str], items: Sequence[Item] = ()) -> Conversation:
        """Begin a conversation."""
        name = new_id("conv_")
        async with self._store.write() as session:
            lock, data_key = (await self._store.lock(session, self._tenant)).new("conversations", name)
            row = ConversationRow(
                id=name,
                tenant_id=self._tenant,
                created_at=int(self._store.clock()),
                data_key=data_key,
                labels=lock.seal(_encode(dict(metadata)), "conversations", name, "metadata"),
                next_position=0,
                summarised=0,
            )
            session.add(row)
            await session.flush()
            await self.append(session, name, items)
        return Conversation(name, row.created_at, dict(metadata))

    async def get(self, conversation_id: str) -> Conversation:
        """A conversation by id."""
        async with self._store.session() as session:
            row = await self._row(session, conversation_id)
            return _conversation(row, await self._lock(session, row))

    async def update(self, conversation_id: str, metadata: Mapping[str, str]) -> Conversation:
        """Put other metadata in place of what was there."""
        async with self._store.write() as session:
            row = await self._row(session, conversation_id, lock=True)
            lock = await self._lock(session, row)
            row.labels = lock.seal(_encode(dict(metadata)), "conversations", row.id, "metadata")
            return _conversation(row, lock)

    async def delete(self, conversation_id: str) -> None:
        """Delete a conversation with its items; stored responses stay."""
        async with self._store.write() as session:
            row = await self._row(session, conversation_id, lock=True)
            await session.execute(delete(ConversationItemRow).where(ConversationItemRow.conversation_id == conversation_id))
            await self._store.jobs.cancel(session, self._tenant, REMEMBER, conversation_id)
            await session.delete(row)

    async def items(self, conversation_id: str, after: str = "", limit: int = 20, *, newest_first: bool = True) -> list[Item]:
        """Items in order, after one of them."""
        async with self._store.session() as session:
            lock = await self._lock(session, await self._row(session, conversation_id))
            wanted, position = _of(conversation_id), ConversationItemRow.position
            if after:
                last = (await self._item(session, conversation_id, after)).position
                wanted &= position < last if newest_first else position > last
            order = position.desc() if newest_first else position
            rows = await session.scalars(select(ConversationItemRow).where(wanted).order_by(order).limit(limit))
            return [_placed(row, lock).item for row in rows]

    async def add_items(self, conversation_id: str, items: Sequence[Item]) -> None:
        """Put items at the end."""
        async with self._store.write() as session:
            await self._row(session, conversation_id, lock=True)
            await self.append(session, conversation_id, items)

    async def append(self, session: AsyncSession, conversation_id: str, items: Sequence[Item]) -> None:
        """Put items at the end, in a transaction of the caller's; nothing happens where the conversation is gone."""
        if not items:
            return
        try:
            row = await self._row(session, conversation_id, lock=True)
        except NotFound:
            return
        lock = await self._lock(session, row)
        for position, item in enumerate(items, row.next_position):
            place = f"{conversation_id}/{position}"
            sealed = lock.seal(item.body, "conversation_items", place, "body")
            fields: dict[str, Any] = {"conversation_id": conversation_id, "position": position, "tenant_id": self._tenant}
            session.add(ConversationItemRow(**fields, item_id=item.id, body=sealed))
        row.next_position += len(items)
        await self._store.jobs.enqueue(session, self._tenant, REMEMBER, conversation_id, interrupt=False)

    async def item(self, conversation_id: str, item_id: str) -> Item:
        """An item by id."""
        async with self._store.session() as session:
            lock = await self._lock(session, await self._row(session, conversation_id))
            return _placed(await self._item(session, conversation_id, item_id), lock).item

    async def delete_item(self, conversation_id: str, item_id: str) -> Conversation:
        """Take an item out; returns its conversation."""
        async with self._store.write() as session:
            row = await self._row(session, conversation_id, lock=True)
            await session.delete(await self._item(session, conversation_id, item_id))
            return _conversation(row, await self._lock(session, row))

    async def tail(self, conversation_id: str, limit: int) -> list[Placed]:
        """The newest items, oldest first."""
        newest = select(ConversationItemRow).where(_of(conversation_id)).order_by(ConversationItemRow.position.desc()).limit(limit)
        async with self._store.session() as session:
            lock = await self._lock(session, await self._row(session, conversation_id))
            return [_placed(row, lock) for row in await session.scalars(newest)][::-1]

    async def between(self, conversation_id: str, first: int, before: int) -> list[Placed]:
        """The items at positions [first, before)."""
        position = ConversationItemRow.position
        wanted = select(ConversationItemRow).where(_of(conversation_id), position >= first, position < before).order_by(position)
        async with self._store.session() as session:
            lock = await self._lock(session, await self._row(session, conversation_id))
            return [_placed(row, lock) for row in await session.scalars(wanted)]

    async def at(self, conversation_id: str, positions: Sequence[int]) -> list[Placed]:
        """The items at some positions, in order."""
        position = ConversationItemRow.position
        wanted = select(ConversationItemRow).where(_of(conversation_id), position.in_(positions)).order_by(position)
        async with self._store.session() as session:
            lock = await self._lock(session, await self._row(session, conversation_id))
            return [_placed(row, lock) for row in await session.scalars(wanted)]

    async def summary(self, conversation_id: str) -> Summary | None:
        """The summary; None where there is none yet."""
        async with self._store.session() as session:
            row = await self._row(session, conversation_id)
            if row.summary is None:
                return None
            text = (await self._lock(session, row)).open(row.summary, "conversations", row.id, "summary").decode()
            return Summary(text, row.summarised)

    async def set_summary(self, conversation_id: str, summary: Summary) -> None:
        """Put a summary in place of the one before."""
        async with self._store.write() as session:
            row = await self._row(session, conversation_id, lock=True)
            row.summary = (await self._lock(session, row)).seal(summary.text.encode(), "conversations", row.id, "summary")
            row.summarised = summary.upto

    async def unembedded(self, conversation_id: str, limit: int) -> list[Placed]:
        """Items that have no vector yet."""
        wanted = select(ConversationItemRow).where(_of(conversation_id), ConversationItemRow.vector.is_(None))
        async with self._store.session() as session:
            lock = await self._lock(session, await self._row(session, conversation_id))
            return [_placed(row, lock) for row in await session.scalars(wanted.order_by(ConversationItemRow.position).limit(limit))]

    async def set_vectors(self, conversation_id: str, positions: Sequence[int], vectors: Vectors) -> None:
        """Keep the vectors of some items, shape (len(positions), d); an item without words has a row of zeros."""
        async with self._store.write() as session:
            lock = await self._lock(session, await self._row(session, conversation_id, lock=True))
            rows = await session.scalars(
                select(ConversationItemRow).where(_of(conversation_id), ConversationItemRow.position.in_(positions))
            )
            for row in rows:
                vector = vectors[positions.index(row.position)].astype("<f4").tobytes()
                row.vector = lock.seal(vector, "conversation_items", f"{conversation_id}/{row.position}", "vector")

    async def vectors(self, conversation_id: str, before: int, limit: int, width: int) -> tuple[list[int], Vectors]:
        """Of the newest `limit` positions under `before`, those whose vectors are that wide, and these, shape (n, width).

        Vectors of another model, and the stand-ins of items without words, may have another width.
        """
        position = ConversationItemRow.position
        wanted = select(ConversationItemRow).where(_of(conversation_id), position < before, ConversationItemRow.vector.is_not(None))
        async with self._store.session() as session:
            lock = await self._lock(session, await self._row(session, conversation_id))
            newest = wanted.options(undefer(ConversationItemRow.vector)).order_by(position.desc()).limit(limit)
            rows = (await session.scalars(newest)).all()
        kept = {row.position: vector for row in rows if len(vector := _vector(row, lock)) == width}
        return list(kept), np.stack(list(kept.values())) if kept else np.zeros((0, width), np.float32)

    async def _row(self, session: AsyncSession, conversation_id: str, *, lock: bool = False) -> ConversationRow:
        name = checked("conversation", conversation_id)
        wanted = select(ConversationRow).where(ConversationRow.id == name, ConversationRow.tenant_id == self._tenant)
        return found(await session.scalar(wanted.with_for_update() if lock else wanted), "conversation", conversation_id)

    async def _item(self, session: AsyncSession, conversation_id: str, item_id: str) -> ConversationItemRow:
        await self._row(session, conversation_id)
        named = (_of(conversation_id), ConversationItemRow.item_id == checked("item", item_id))
        return found(await session.scalar(select(ConversationItemRow).where(*named)), "item", item_id)

    async def _lock(self, session: AsyncSession, row: ConversationRow) -> Lock:
        return (await self._store.lock(session, self._tenant)).of(row.data_key, "conversations", row.id)


def _of(conversation_id: str) -> Any:
    return ConversationItemRow.conversation_id == conversation_id


def _conversation(row: ConversationRow, lock: Lock) -> Conversation:
    return Conversation(row.id, row.created_at, _decode(lock.open(row.labels, "conversations", row.id, "metadata")))


def _vector(row: ConversationItemRow, lock: Lock) -> Vector:
    return np.frombuffer(lock.open(row.vector or b"", "conversation_items", f"{row.conversation_id}/{row.position}", "vector"), "<f4")


def _placed(row: ConversationItemRow, lock: Lock) -> Placed:
    body = lock.open(row.body, "conversation_items", f"{row.conversation_id}/{row.position}", "body")
    return Placed(row.position, Item(row.item_id, body))
