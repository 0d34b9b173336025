"""The version of a vector store's content: it rises with every change, so that what was made from an older one is known to be old."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from deployments.core.tables import StoreRow

if TYPE_CHECKING:
    from deployments.core.store import Store


class Corpus:
    """The versions of one tenant's vector stores."""

    def __init__(self, store: "Store", tenant: str):
        self._store = store
        self._tenant = tenant

    async def version(self, store_id: str) -> int:
        """The version of a store's content; 0 for one that has none."""
        mine = (StoreRow.id == store_id) & (StoreRow.tenant_id == self._tenant)
        async with self._store.session() as session:
            return await session.scalar(select(StoreRow.version).where(mine)) or 0

    async def touch(self, store_id: str) -> None:
        """Note a change that SQL knows nothing of, such as one of the index."""
        async with self._store.write() as session:
            await self.advance(session, [store_id])

    async def advance(self, session: AsyncSession, store_ids: Iterable[str]) -> None:
        """Note a change within its transaction, at its end: who changes the same store waits from here on."""
        for store_id in sorted(store_ids):  # in one order, or two transactions would wait for each other
            mine = (StoreRow.id == store_id) & (StoreRow.tenant_id == self._tenant)
            await session.execute(update(StoreRow).where(mine).values(version=StoreRow.version + 1))
