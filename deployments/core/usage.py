"""The books: what each tenant has used, a row for each day, key and model; the truth that quotas come back from."""

import asyncio
import logging
import time
from collections import defaultdict
from typing import Any

import msgspec
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from deployments.core.sql import INSERTS
from deployments.core.store import Store
from deployments.core.tables import UsageRow
from deployments.core.types import Principal

_logger = logging.getLogger("headrace.usage")

FLUSH_S = 1.0
"""Entries wait so long to be written together; a process that is killed loses as much."""

_DAY_S = 86_400

Entry = tuple[str, str, str, int]
"""Tenant, key, model, and the day in days since 1970."""


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
        self._noted: dict[Entry, list[int]] = defaultdict(lambda: [0, 0, 0])

    def note(self, principal: Principal, model: str, requests: int, prompt: int, completion: int) -> None:
        """Add some use of today."""
        entry = self._noted[principal.tenant, principal.key_id, model, int(self._store.clock()) // _DAY_S]
        for place, amount in enumerate((requests, prompt, completion)):
            entry[place] += amount

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
        while True:
            await asyncio.sleep(FLUSH_S)
            await self.flush()

    async def flush(self) -> None:
        """Write down what was noted; what can not be written is kept."""
        noted = dict(self._noted)
        if not noted:
            return
        self._noted.clear()
        names = ["tenant_id", "key_id", "model", "day", "requests", "prompt_tokens", "completion_tokens"]
        rows: list[dict[str, Any]] = [dict(zip(names, (*entry, *amounts), strict=True)) for entry, amounts in noted.items()]
        insert = INSERTS[self._store.engine.dialect.name](UsageRow)
        added = {name: getattr(UsageRow, name) + insert.excluded[name] for name in names[4:]}
        try:
            async with self._store.write() as session:
                await session.execute(insert.on_conflict_do_update(index_elements=names[:4], set_=added), rows)
        except SQLAlchemyError:
            _logger.exception("use can not be written down")
            for entry, amounts in noted.items():
                self._noted[entry] = [one + other for one, other in zip(self._noted[entry], amounts, strict=True)]


def _use(row: UsageRow) -> DayUse:
    day = time.strftime("%Y-%m-%d", time.gmtime(row.day * _DAY_S))
    return DayUse(day, row.key_id, row.model, row.requests, row.prompt_tokens, row.completion_tokens)
