"""Responses in SQL: how they were asked for, what has become of them, and their items; all of it sealed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import delete, literal, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased, undefer

from deployments.core.ids import checked, found
from deployments.core.jobs import RESPOND, Job
from deployments.core.tables import AttemptRow, ConversationItemRow, ResponseItemRow, ResponseRow
from deployments.core.vault import Lock

if TYPE_CHECKING:
    from deployments.core.store import Store

ENDED = ("completed", "incomplete", "failed", "cancelled")
"""The states that do not change any more."""


class Item(msgspec.Struct, frozen=True):
    """An item of input or output; `body` is its JSON, as it is on the wire."""

    id: str
    body: bytes


class StoredResponse(msgspec.Struct, frozen=True):
    """A response; `asked` says what its events are encoded from, `body` is the Response object as JSON.

    `prompt` is the one it named, as `id@version`; `variants` is the arm of each canary that it was part of.
    """

    id: str
    status: str
    background: bool
    created_at: int
    previous_id: str | None
    conversation_id: str | None
    asked: bytes
    body: bytes
    prompt: str | None = None
    variants: dict[str, str] | None = None


class Responses:
    """The responses of one tenant. Raises NotFound for an id that is not this tenant's."""

    def __init__(self, store: "Store", tenant: str):
        self._store = store
        self._tenant = tenant

    async def add(self, response: StoredResponse, inputs: Sequence[Item], turn: bytes | None = None, outputs: Sequence[Item] = ()) -> None:
        """Keep a response; with its turn, a worker answers it. One that has ended joins its conversation."""
        async with self._store.session() as session:
            lock, data_key = (await self._store.lock(session, self._tenant)).new("responses", response.id)
        row = ResponseRow(
            id=response.id,
            tenant_id=self._tenant,
            status=response.status,
            background=response.background,
            created_at=response.created_at,
            previous_id=response.previous_id,
            conversation_id=response.conversation_id,
            prompt=response.prompt,
            variants=response.variants,
            data_key=data_key,
            asked=lock.seal(response.asked, "responses", response.id, "asked"),
            body=lock.seal(response.body, "responses", response.id, "body"),
            turn=None if turn is None else lock.seal(turn, "responses", response.id, "turn"),
        )
        async with self._store.write() as session:
            session.add(row)
            await session.flush()
            session.add_all(self._rows(response.id, inputs, 0, lock, output=False))
            session.add_all(self._rows(response.id, outputs, len(inputs), lock, output=True))
            await self._join(session, row, [*inputs, *outputs])
            if turn is not None:
                await self._store.jobs.enqueue(session, self._tenant, RESPOND, response.id)

    async def get(self, response_id: str) -> StoredResponse:
        """A response by id."""
        async with self._store.session() as session:
            row = await self._row(session, response_id)
            return _stored(row, await self._lock(session, row))

    async def turn(self, response_id: str) -> bytes:
        """The turn of a response that waits for a worker; raises NotFound once it has ended."""
        async with self._store.session() as session:
            row = await self._row(session, response_id, with_turn=True)
            sealed = found(row.turn, "open response", response_id)
            return (await self._lock(session, row)).open(sealed, "responses", response_id, "turn")

    async def begin(self, response_id: str, body: bytes, job: Job | None = None) -> None:
        """Note that a worker has begun; changes nothing where the response has ended. Raises LeaseLost where the job is not ours."""
        async with self._store.write() as session:
            row = await self._row(session, response_id, lock=True)
            if job:
                await self._store.jobs.hold(session, job)
            if row.status not in ENDED:
                row.status = "in_progress"
                row.body = (await self._lock(session, row)).seal(body, "responses", response_id, "body")

    async def finish(self, response_id: str, status: str, body: bytes, outputs: Sequence[Item], job: Job | None = None) -> bool:
        """Keep how a response ended, and add it to its conversation. False and nothing changed where it had ended already, except
        that one which was cancelled takes what had been written of it, once. Raises LeaseLost where the job is not ours; the job goes
        on, for its log has to be ended yet."""
        async with self._store.write() as session:
            row = await self._row(session, response_id, with_turn=True, lock=True)
            if job:
                await self._store.jobs.hold(session, job)
            known = await self._items(session, response_id)
            if row.status in ENDED and not (row.status == status == "cancelled" and row.turn is not None):
                return False
            lock = await self._lock(session, row)
            row.status, row.body, row.turn = status, lock.seal(body, "responses", response_id, "body"), None
            session.add_all(self._rows(response_id, outputs, len(known), lock, output=True))
            await self._join(session, row, [*(_item(item, lock) for item in known if not item.output), *outputs])
        return True

    async def cancel(self, response_id: str) -> tuple[StoredResponse, int]:
        """Call a response off; returns it with the fence of its job, over that of whoever works on it, or 0 where it had ended."""
        async with self._store.write() as session:
            row = await self._row(session, response_id, lock=True)
            fence = await self._store.jobs.cancel(session, self._tenant, RESPOND, response_id)
            if row.status in ENDED:
                fence = 0
            else:
                row.status = "cancelled"
            return _stored(row, await self._lock(session, row)), fence

    async def delete(self, response_id: str) -> None:
        """Delete a response with its items and the request it answered, and call its job off; what its conversation holds stays."""
        async with self._store.write() as session:
            row = await self._row(session, response_id, lock=True)
            await self._store.jobs.cancel(session, self._tenant, RESPOND, response_id)
            await session.execute(delete(ResponseItemRow).where(ResponseItemRow.response_id == response_id))
            await session.execute(delete(AttemptRow).where(AttemptRow.response_id == response_id, AttemptRow.tenant_id == self._tenant))
            await session.delete(row)

    async def inputs(self, response_id: str, after: str = "", limit: int = 20, *, newest_first: bool = False) -> list[Item]:
        """The input of a response, after one of its items."""
        async with self._store.session() as session:
            row = await self._row(session, response_id)
            rows = [item for item in await self._items(session, response_id) if not item.output]
            if newest_first:
                rows.reverse()
            start = next((place + 1 for place, item in enumerate(rows) if item.item_id == after), 0 if not after else len(rows))
            lock = await self._lock(session, row)
            return [_item(item, lock) for item in rows[start : start + limit]]

    async def chain(self, response_id: str, limit: int) -> list[list[Item]]:
        """Input and output of a response and of those before it, oldest first, of at most `limit` responses."""
        async with self._store.session() as session:
            await self._row(session, response_id)
            mine = (ResponseRow.tenant_id == self._tenant, ResponseRow.id == response_id)
            chain = select(ResponseRow.id, ResponseRow.previous_id).where(*mine).add_columns(_DEPTH).cte("chain", recursive=True)
            before = aliased(ResponseRow)
            earlier = select(before.id, before.previous_id, chain.c.depth + 1).where(
                before.id == chain.c.previous_id, before.tenant_id == self._tenant, chain.c.depth < limit - 1
            )
            chain = chain.union_all(earlier)
            wanted = select(ResponseRow).join(chain, chain.c.id == ResponseRow.id).order_by(chain.c.depth.desc())
            rows = (await session.scalars(wanted)).all()
            locks = {row.id: await self._lock(session, row) for row in rows}
            items = select(ResponseItemRow).where(ResponseItemRow.response_id.in_(list(locks))).order_by(ResponseItemRow.position)
            kept: dict[str, list[Item]] = {row.id: [] for row in rows}
            for item in await session.scalars(items):
                kept[item.response_id].append(_item(item, locks[item.response_id]))
        return list(kept.values())

    async def item(self, item_id: str) -> Item:
        """Any item of the tenant's responses and conversations."""
        checked("item", item_id)
        async with self._store.session() as session:
            named = (ResponseItemRow.tenant_id == self._tenant, ResponseItemRow.item_id == item_id)
            if row := await session.scalar(select(ResponseItemRow).where(*named).limit(1)):
                return _item(row, await self._lock(session, await self._row(session, row.response_id)))
            spoken = (ConversationItemRow.tenant_id == self._tenant, ConversationItemRow.item_id == item_id)
            said = found(await session.scalar(select(ConversationItemRow).where(*spoken).limit(1)), "item", item_id)
        return await self._store.of_tenant(self._tenant).conversations.item(said.conversation_id, item_id)

    async def _join(self, session: AsyncSession, row: ResponseRow, items: Sequence[Item]) -> None:
        """Put the items of a response that has ended well at the end of its conversation."""
        if row.conversation_id and row.status in ("completed", "incomplete"):
            await self._store.of_tenant(self._tenant).conversations.append(session, row.conversation_id, items)

    def _rows(self, response_id: str, items: Sequence[Item], first: int, lock: Lock, *, output: bool) -> list[ResponseItemRow]:
        return [
            ResponseItemRow(
                response_id=response_id,
                position=position,
                tenant_id=self._tenant,
                item_id=item.id,
                output=output,
                body=lock.seal(item.body, "response_items", f"{response_id}/{position}", "body"),
            )
            for position, item in enumerate(items, first)
        ]

    async def _items(self, session: AsyncSession, response_id: str) -> list[ResponseItemRow]:
        named = ResponseItemRow.response_id == response_id
        return list(await session.scalars(select(ResponseItemRow).where(named).order_by(ResponseItemRow.position)))

    async def _row(self, session: AsyncSession, response_id: str, *, with_turn: bool = False, lock: bool = False) -> ResponseRow:
        wanted = select(ResponseRow).where(ResponseRow.id == checked("response", response_id), ResponseRow.tenant_id == self._tenant)
        wanted = wanted.options(undefer(ResponseRow.turn)) if with_turn else wanted
        return found(await session.scalar(wanted.with_for_update() if lock else wanted), "response", response_id)

    async def _lock(self, session: AsyncSession, row: ResponseRow) -> Lock:
        return (await self._store.lock(session, self._tenant)).of(row.data_key, "responses", row.id)


_DEPTH = literal(0).label("depth")


def _item(row: ResponseItemRow, lock: Lock) -> Item:
    return Item(row.item_id, lock.open(row.body, "response_items", f"{row.response_id}/{row.position}", "body"))


def _stored(row: ResponseRow, lock: Lock) -> StoredResponse:
    asked, body = (lock.open(blob, "responses", row.id, column) for blob, column in ((row.asked, "asked"), (row.body, "body")))
    names = row.previous_id, row.conversation_id
    return StoredResponse(row.id, row.status, row.background, row.created_at, *names, asked, body, row.prompt, row.variants)
