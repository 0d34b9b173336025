"""Sums that are gathered in memory and added to the rows of a table once a second."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from deployments.core.sql import INSERTS
from deployments.core.store import Store
from deployments.core.tables import Base

_logger = logging.getLogger("headrace.tally")

FLUSH_S = 1.0
"""Sums wait so long to be written together; a process that is killed loses as much."""


class Tally:
    """The sums of one table, whose columns are its keys and then the amounts."""

    def __init__(self, store: Store, table: type[Base], keys: Sequence[str], amounts: Sequence[str]):
        self._store, self._table, self._keys, self._amounts = store, table, tuple(keys), tuple(amounts)
        self._noted: dict[tuple[str | int, ...], tuple[int, ...]] = {}

    def add(self, key: tuple[str | int, ...], *amounts: int) -> None:
        """Add amounts to the row of a key."""
        noted = self._noted.get(key)
        self._noted[key] = tuple(map(sum, zip(noted, amounts, strict=True))) if noted else amounts

    async def run(self) -> None:
        """Write down what was noted, until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_S)
            await self.flush()

    async def flush(self) -> None:
        """Write down what was noted; what can not be written is kept."""
        noted, self._noted = self._noted, {}
        if not noted:
            return
        names = (*self._keys, *self._amounts)
        rows: list[dict[str, Any]] = [dict(zip(names, (*key, *amounts), strict=True)) for key, amounts in noted.items()]
        insert = INSERTS[self._store.engine.dialect.name](self._table)
        added = {name: getattr(self._table, name) + insert.excluded[name] for name in self._amounts}
        try:
            async with self._store.write() as session:
                await session.execute(insert.on_conflict_do_update(index_elements=self._keys, set_=added), rows)
        except BaseException as error:
            for key, amounts in noted.items():
                self.add(key, *amounts)
            if not isinstance(error, SQLAlchemyError | OSError):  # asyncpg's refused connections are the latter
                raise
            _logger.warning("sums of %s can not be written down: %s", self._table.__tablename__, error)
