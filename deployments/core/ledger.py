"""The ledger: every attempt at a model call, by whom it was for and what it was of.

The books (`core.usage`) are what quotas are counted by, a request at a time; here one answer has as many attempts as backends were asked,
and each costs what its backend costs.
"""

import time
from collections.abc import Sequence
from typing import Literal, get_args

import msgspec
from sqlalchemy import func, select

from deployments.core.account import Account, Attempt
from deployments.core.store import Store
from deployments.core.tables import LedgerRow
from deployments.core.tally import Tally

Dimension = Literal["day", "tenant", "key_id", "user", "model", "route", "prompt", "backend", "outcome"]
DIMENSIONS: tuple[Dimension, ...] = get_args(Dimension)
"""What sums can be taken by."""

_DAY_S = 86_400
_NANO = 1e-9
_COLUMNS = {"tenant": LedgerRow.tenant_id, "user": LedgerRow.user_id} | {
    name: getattr(LedgerRow, name) for name in DIMENSIONS if name not in ("tenant", "user")
}
_KEYS = ("tenant_id", "day", "key_id", "user_id", "model", "route", "prompt", "backend", "outcome")
_AMOUNTS = ("attempts", "prompt_tokens", "completion_tokens", "nano_cost")


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """Attempts of one kind, and what they came to; a dimension that was not asked for is None. `cost` is in the money of the backends."""

    attempts: int
    prompt_tokens: int
    completion_tokens: int
    cost: float
    day: str | None = None
    tenant: str | None = None
    key_id: str | None = None
    user: str | None = None
    model: str | None = None
    route: str | None = None
    prompt: str | None = None
    backend: str | None = None
    outcome: str | None = None


class Ledger:
    """Notes attempts in memory and writes them down every second."""

    def __init__(self, store: Store):
        self._store = store
        self._tally = Tally(store, LedgerRow, _KEYS, _AMOUNTS)

    def note(self, tenant: str, account: Account, attempt: Attempt) -> None:
        """Add an attempt of today."""
        who = account.key_id, account.user, account.model, account.route, account.prompt
        key = (tenant, int(self._store.clock()) // _DAY_S, *who, attempt.backend, attempt.outcome)
        self._tally.add(key, 1, attempt.prompt_tokens, attempt.completion_tokens, attempt.nano_cost)

    async def sums(self, by: Sequence[Dimension], days: int, limit: int, tenant: str | None = None) -> list[Entry]:
        """What the attempts of the last days came to, for each value of some dimensions: so many entries at most, the newest day first."""
        columns = [_COLUMNS[name] for name in by]
        amounts = [func.sum(getattr(LedgerRow, name)) for name in _AMOUNTS]
        rows = select(*columns, *amounts).where(LedgerRow.day > int(self._store.clock()) // _DAY_S - days)
        if tenant is not None:
            rows = rows.where(LedgerRow.tenant_id == tenant)
        order = [column.desc() if name == "day" else column for name, column in zip(by, columns, strict=True)]
        rows = rows.group_by(*columns).order_by(*order) if columns else rows.having(func.count() > 0)
        async with self._store.session() as session:
            return [_entry(by, row) for row in await session.execute(rows.limit(limit))]

    async def run(self) -> None:
        """Write down what was noted, until cancelled."""
        await self._tally.run()

    async def flush(self) -> None:
        """Write down what was noted; what can not be written is kept."""
        await self._tally.flush()


def _entry(by: Sequence[Dimension], row: Sequence[str | int]) -> Entry:
    keys, (attempts, read, written, cost) = dict(zip(by, row, strict=False)), map(int, row[len(by) :])
    if "day" in keys:
        keys["day"] = time.strftime("%Y-%m-%d", time.gmtime(int(keys["day"]) * _DAY_S))
    return Entry(attempts, read, written, round(cost * _NANO, 9), **keys)  # pyright: ignore[reportArgumentType]
