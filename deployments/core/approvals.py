"""Approvals of calls of tools: each is good for one call, with exactly the arguments that were asked about, for a while.

The id of a request carries a keyed digest of all that it is about, so that nothing of it can be changed; which ids have been used is
in SQL, so that none is used twice, whatever is restarted.
"""

import hmac
from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import delete
from sqlalchemy.exc import IntegrityError

from deployments.core.tables import ApprovalRow
from deployments.core.tools import Approval
from deployments.core.types import Principal
from deployments.core.vault import Lock

if TYPE_CHECKING:
    from deployments.core.store import Store

PREFIX = "mcpr_"
_DIGEST_CHARS = 40
_LONGEST_S = 86_400

_canonical = msgspec.json.Encoder(order="deterministic").encode


def request_id(lock: Lock, caller: Principal, asked: Approval, expires_at: int, nonce: str) -> str:
    """The id of a request for an approval, which ends at `expires_at` (Unix seconds); its own `request_id` does not matter."""
    return f"{PREFIX}{expires_at:x}-{nonce}-{_digest(lock, caller, asked, expires_at, nonce)}"


def genuine(lock: Lock, caller: Principal, answer: Approval, now: float) -> bool:
    """Whether an answer is about exactly what this caller was asked there, and not too late."""
    try:
        ends, nonce, digest = answer.request_id.removeprefix(PREFIX).split("-")
        expires_at = int(ends, 16)
    except ValueError:
        return False
    return now < expires_at and hmac.compare_digest(digest.encode(), _digest(lock, caller, answer, expires_at, nonce).encode())


class Approvals:
    """Which approvals of one tenant have been used."""

    def __init__(self, store: "Store", tenant: str):
        self._store = store
        self._tenant = tenant

    async def spend(self, request: str) -> bool:
        """Use an approval; False where it has been used."""
        now = int(self._store.clock())
        try:
            async with self._store.write() as session:
                old = (ApprovalRow.tenant_id == self._tenant) & (ApprovalRow.forget_at <= now)
                await session.execute(delete(ApprovalRow).where(old))
                session.add(ApprovalRow(tenant_id=self._tenant, id=request, forget_at=now + 2 * _LONGEST_S))
        except IntegrityError:
            return False
        return True


def _digest(lock: Lock, caller: Principal, asked: Approval, expires_at: int, nonce: str) -> str:
    arguments = msgspec.json.decode(asked.arguments)
    who = [caller.tenant, caller.key_id, caller.user]
    parts = ["approval of a call", who, asked.origin, asked.label, asked.name, arguments, expires_at, nonce]
    return lock.mark(_canonical(parts))[:_DIGEST_CHARS]
