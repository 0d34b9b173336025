"""The books: what each tenant has used, a row for each day, key and model; the truth that quotas come back from."""

import time

import msgspec
from sqlalchemy import func, select

from deployments.core.store import Store
from deployments.core.tables import UsageRow
from deployments.core.tally import Tally
from deployments.core.types import Principal

_DAY_S = 86_400


class DayUse(msgspec.Struct, frozen=True):
    """What one key used of one model on one day."""

    day: str
    key_id: str
    model: str
    requests: int
    prompt_tokens: int
    completion_tokens: int


class Books:
    """Notes use in memory and writes it down every second."""

    def __init__(self, store: Store):
        self._store = store
        keys, amounts = ("tenant_id", "key_id", "model", "day"), ("requests", "prompt_tokens", "completion_tokens")
        self._tally = Tally(store, UsageRow, keys, amounts)

    def note(self, principal: Principal, model: str, requests: int, prompt: int, completion: int) -> None:
        """Add some use of today."""
        today = int(self._store.clock()) // _DAY_S
        self._tally.add((principal.tenant, principal.key_id, model, today), requests, prompt, completion)

    async def used(self, principal: Principal) -> tuple[int, int, int]:
        """Requests and tokens of today, and tokens of this month, of a tenant."""
        await self.flush()
        today = int(self._store.clock()) // _DAY_S
        first = today - time.gmtime(today * _DAY_S).tm_mday + 1
        tokens = func.coalesce(func.sum(UsageRow.prompt_tokens + UsageRow.completion_tokens), 0)
        mine = UsageRow.tenant_id == principal.tenant
        day = select(func.coalesce(func.sum(UsageRow.requests), 0), tokens).where(mine, UsageRow.day == today)
        async with self._store.session() as session:
            requests, of_day = (await session.execute(day)).one()
            of_month = await session.scalar(select(tokens).where(mine, UsageRow.day >= first))
        return int(requests), int(of_day), int(of_month or 0)

    async def of(self, tenant: str, days: int) -> list[DayUse]:
        """What a tenant used within the last days, newest first."""
        since = int(self._store.clock()) // _DAY_S - days
        rows = select(UsageRow).where(UsageRow.tenant_id == tenant, UsageRow.day > since)
        async with self._store.session() as session:
            found = await session.scalars(rows.order_by(UsageRow.day.desc(), UsageRow.key_id, UsageRow.model))
            return [_use(row) for row in found]

    async def run(self) -> None:
        """Write down what was noted, until cancelled."""
        await self._tally.run()

    async def flush(self) -> None:
        """Write down what was noted; what can not be written is kept."""
        await self._tally.flush()


def _use(row: UsageRow) -> DayUse:
    day = time.strftime("%Y-%m-%d", time.gmtime(row.day * _DAY_S))
    return DayUse(day, row.key_id, row.model, row.requests, row.prompt_tokens, row.completion_tokens)
