"""Requests that are answered once: who claims an idempotency key answers it, all others get what it was answered with.

A claim is a lease with a heartbeat: when its holder dies, the next request with the key takes over. What was bound to a response is
answered with that response for as long as it has not failed.
"""

import secrets
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from sqlalchemy import ColumnElement, delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from deployments.core.errors import InFlight, KeyReused
from deployments.core.ids import found
from deployments.core.sql import INSERTS
from deployments.core.tables import AttemptRow, ResponseRow

if TYPE_CHECKING:
    from deployments.core.store import Store

_PURGED = 50
"""Expired rows that one claim clears away."""

_UNSYNCED: dict[str, Any] = {"synchronize_session": False}


class Reply(msgspec.Struct, frozen=True):
    """An HTTP reply, to be sent once more."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


class Claim(msgspec.Struct, frozen=True):
    """The right to answer the requests of one name."""

    name: str
    holder: str


class Begun(msgspec.Struct, frozen=True):
    """The response that answers a request."""

    response_id: str


_encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.Decoder(Reply).decode


class Attempts:
    """The requests with an idempotency key of one tenant. A name is a digest of all that one key is good for."""

    def __init__(self, store: "Store", tenant: str):
        self._store = store
        self._tenant = tenant

    async def claim(self, name: str, request: bytes, lease_s: float, keep_s: float) -> Claim | Reply | Begun | None:
        """The right to answer, or what the request is answered with; None while somebody else answers it.

        `request` is a digest of its content. Raises KeyReused where the name belongs to other content.
        """
        now = self._now()
        async with self._store.write() as session:
            await self._purge(session, now)
            row = await self._row(session, name) or await self._new(session, name)
            standing = await self._standing(session, row, now)
            if standing == "free":
                row.request, row.holder, row.leased_until = request, secrets.token_hex(16), now + _ms(lease_s)
                row.expires_at, row.response_id, row.reply, row.data_key = now + _ms(keep_s), None, None, None
                return Claim(name, row.holder)
            if row.request != request:
                raise KeyReused("this idempotency key was used with another request", param="idempotency-key")
            return None if standing == "held" else standing

    async def renew(self, claim: Claim, lease_s: float) -> None:
        """Hold a claim for that much longer from now."""
        await self._change(claim, leased_until=self._now() + _ms(lease_s))

    async def bind(self, claim: Claim, response_id: str) -> None:
        """Note which response will be the answer, before it is there; raises InFlight where somebody else has taken over."""
        if not await self._change(claim, response_id=response_id):
            raise InFlight("another request with this idempotency key is being answered", retry_after_s=1)

    async def keep(self, claim: Claim, reply: Reply, keep_s: float) -> None:
        """Answer every request of the name with that reply from now on."""
        async with self._store.session() as session:
            lock, data_key = (await self._store.lock(session, self._tenant)).new("attempts", claim.name)
        sealed = lock.seal(_encode(reply), "attempts", claim.name, "reply")
        await self._change(claim, reply=sealed, data_key=data_key, leased_until=0, expires_at=self._now() + _ms(keep_s))

    async def release(self, claim: Claim) -> None:
        """Give a claim back without a reply; what was bound to a response stays bound, for as long as that has not failed."""
        unbound = delete(AttemptRow).where(self._held(claim), AttemptRow.response_id.is_(None))
        lapsed = update(AttemptRow).where(self._held(claim)).values(leased_until=0)
        async with self._store.write() as session:
            await session.execute(unbound.execution_options(**_UNSYNCED))
            await session.execute(lapsed.execution_options(**_UNSYNCED))

    async def _standing(self, session: AsyncSession, row: AttemptRow, now: int) -> Reply | Begun | Literal["held", "free"]:
        """What the row is answered with; `held` while somebody answers it, `free` where nobody does."""
        if row.expires_at <= now:
            return "free"
        if row.reply is not None and row.data_key is not None:
            lock = (await self._store.lock(session, self._tenant)).of(row.data_key, "attempts", row.name)
            return _decode(lock.open(row.reply, "attempts", row.name, "reply"))
        if row.response_id and await self._stands(session, row.response_id):
            return Begun(row.response_id)
        return "held" if row.leased_until > now else "free"

    async def _stands(self, session: AsyncSession, response_id: str) -> bool:
        """Whether there is such a response, and it has not failed."""
        mine = (ResponseRow.id == response_id) & (ResponseRow.tenant_id == self._tenant)
        status = await session.scalar(select(ResponseRow.status).where(mine))
        return status is not None and status not in ("failed", "cancelled")

    async def _purge(self, session: AsyncSession, now: int) -> None:
        stale = select(AttemptRow.name).where(AttemptRow.expires_at <= now).limit(_PURGED).with_for_update(skip_locked=True)
        await session.execute(delete(AttemptRow).where(AttemptRow.name.in_(stale)).execution_options(**_UNSYNCED))

    async def _row(self, session: AsyncSession, name: str) -> AttemptRow | None:
        mine = (AttemptRow.name == name) & (AttemptRow.tenant_id == self._tenant)
        return await session.scalar(select(AttemptRow).where(mine).with_for_update())

    async def _new(self, session: AsyncSession, name: str) -> AttemptRow:
        """A row for a name, ours or that of who was faster."""
        insert = INSERTS[self._store.engine.dialect.name](AttemptRow).values(name=name, tenant_id=self._tenant)
        await session.execute(insert.on_conflict_do_nothing())
        return found(await self._row(session, name), "attempt", name)

    async def _change(self, claim: Claim, **values: Any) -> bool:
        change = update(AttemptRow).where(self._held(claim)).values(**values).execution_options(**_UNSYNCED)
        async with self._store.write() as session:
            return bool((await session.execute(change)).rowcount)  # type: ignore[attr-defined]

    def _held(self, claim: Claim) -> ColumnElement[bool]:
        held = (AttemptRow.name == claim.name) & (AttemptRow.holder == claim.holder)
        return held & (AttemptRow.tenant_id == self._tenant) & AttemptRow.reply.is_(None)

    def _now(self) -> int:
        return _ms(self._store.clock())


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
