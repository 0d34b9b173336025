"""The record of administrative and security-relevant acts: append-only, each entry chained to the one before by its hash.

An entry's hash is SHA-256 over the hash before it and the entry as canonical JSON. Where the record ends is kept apart, under a MAC
whose key is not in the database. What the chain can not show is a whole database set back to an earlier day: keep the head that
`verify` tells somewhere else to see that. Entries hold ids, names and counts; never a secret, and nothing of what tenants say.
"""

import hashlib
import hmac
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from deployments.core.tables import AuditHeadRow, AuditRow

if TYPE_CHECKING:
    from deployments.core.store import Store

_FIRST = bytes(32)
"""What the first entry is chained to."""

_PAGE = 1000
_MAX_CHARS = 200

_canonical = msgspec.json.Encoder(order="deterministic").encode
_decode = msgspec.json.decode


class Entry(msgspec.Struct, frozen=True):
    """An act on record: who (a key's id, or `cli`), what, of which tenant, to what, and the particulars; hashes are in hex."""

    number: int
    at: int
    actor: str
    act: str
    tenant: str | None
    subject: str
    detail: dict[str, Any]
    previous: str
    hash: str


class Verdict(msgspec.Struct, frozen=True):
    """What a look at the whole record found: its length and last hash, and the first entry that does not fit, if one does not."""

    entries: int
    head: str
    broken: int | None = None
    reason: str = ""


class Audit:
    """The record of one installation."""

    def __init__(self, store: "Store", key: bytes):
        self._store = store
        self._key = key

    async def append(self, session: AsyncSession, actor: str, act: str, tenant: str | None, subject: str, **detail: Any) -> None:
        """Put an act on record in the transaction that does it, as its last statement: other writers wait from here on."""
        head = (await session.execute(select(AuditHeadRow).with_for_update())).scalar_one()
        row = AuditRow(
            number=head.number + 1,
            at=int(self._store.clock()),
            actor=actor[:_MAX_CHARS],
            act=act,
            tenant=tenant,
            subject=subject[:_MAX_CHARS],
            detail=_canonical(detail).decode(),
            previous=head.hash,
        )
        row.hash = _hash(row)
        head.number, head.hash = row.number, row.hash
        head.mac = self._mac(head)
        session.add(row)

    async def entries(self, after: int = 0, limit: int = _PAGE) -> list[Entry]:
        """Entries behind a number, in order."""
        async with self._store.session() as session:
            return [_entry(row) for row in await _page(session, after, limit)]

    async def verify(self, known: str | None = None) -> Verdict:
        """Read the record from its first entry to its head; ends where the chain breaks, or lacks a head (in hex) that it once had."""
        number, last, missing = 0, _FIRST, known not in (None, _FIRST.hex())
        async with self._store.session() as session:
            while True:
                # The head is read behind the rows: what is written meanwhile moves both.
                rows = await _page(session, number, _PAGE)
                head = (await session.execute(select(AuditHeadRow).execution_options(populate_existing=True))).scalar_one_or_none()
                rows = rows or await _page(session, number, _PAGE)
                for row in rows:
                    if reason := _fault(row, number, last):
                        return Verdict(number, last.hex(), number + 1, reason)
                    number, last = row.number, row.hash
                    missing = missing and last.hex() != known
                if not rows:
                    reason = self._end(head, number, last) or ("the head that was noted is not in the record" if missing else "")
                    return Verdict(number, last.hex(), number + 1 if reason else None, reason)

    def _end(self, head: AuditHeadRow | None, number: int, last: bytes) -> str:
        """What is wrong with the end of the record."""
        if head is None:
            return "the head is missing"
        if head.number != number:
            return f"the record ends here, but its head is at {head.number}"
        if head.hash != last:
            return "the head names another last entry"
        if number and not hmac.compare_digest(head.mac, self._mac(head)):
            return "the head was not written by headrace"
        return ""

    def _mac(self, head: AuditHeadRow) -> bytes:
        return hmac.digest(self._key, head.number.to_bytes(8, "big") + head.hash, "sha256")


async def _page(session: AsyncSession, after: int, limit: int) -> list[AuditRow]:
    found = select(AuditRow).where(AuditRow.number > after).order_by(AuditRow.number).limit(limit)
    return list(await session.scalars(found))


def _fault(row: AuditRow, number: int, last: bytes) -> str:
    """Why a row can not follow the one of that number and hash."""
    if row.number != number + 1:
        return f"entry {number + 1} is missing; the next is {row.number}"
    if row.previous != last:
        return "the entry does not follow the one before"
    return "" if row.hash == _hash(row) else "the entry was changed"


def _hash(row: AuditRow) -> bytes:
    fields = [row.number, row.at, row.actor, row.act, row.tenant, row.subject, row.detail]
    return hashlib.sha256(row.previous + _canonical(fields)).digest()


def _entry(row: AuditRow) -> Entry:
    detail = _decode(row.detail)
    return Entry(row.number, row.at, row.actor, row.act, row.tenant, row.subject, detail, row.previous.hex(), row.hash.hex())
