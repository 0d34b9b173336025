"""What a caller holds in SQL and in the index, changed in both.

The index goes first: after a crash the file is still listed, and removing it again works. A file that is being ingested is withdrawn
once more afterwards, for what the worker may have put there meanwhile.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from deployments.core.errors import NotFound
from deployments.core.members import Member
from deployments.core.ports import Retrieves
from deployments.core.store import Attributes, Store, TenantStore
from deployments.core.types import Principal, Source


@dataclass(frozen=True)
class Holdings:
    """The files and vector stores of one caller; every method raises NotFound for what is not the caller's."""

    store: Store
    retrieves: Retrieves
    caller: Principal

    @cached_property
    def _mine(self) -> TenantStore:
        return self.store.of(self.caller)

    async def delete_file(self, file_id: str) -> None:
        """Delete a file, and take it out of every vector store."""
        await self._mine.file(file_id)
        held = await self._mine.stores_with(file_id)
        for store_id in held:
            await self.withdraw(store_id, file_id)
        await self._mine.delete_file(file_id)
        for store_id, status in held.items():
            if status == "in_progress":
                await self.withdraw(store_id, file_id)

    async def remove_member(self, store_id: str, file_id: str) -> None:
        """Take a file out of a vector store; the file itself stays."""
        held = await self._mine.member(store_id, file_id)
        await self.withdraw(store_id, file_id)
        await self._mine.remove_member(store_id, file_id)
        if held.status == "in_progress":
            await self.withdraw(store_id, file_id)

    async def delete_store(self, store_id: str) -> None:
        """Delete a vector store with its members, its passages and its index; the files stay."""
        await self._mine.require(store_id)
        await self.retrieves.drop(self.caller, store_id)
        await self._mine.delete_store(store_id)
        await self.retrieves.drop(self.caller, store_id)

    async def cancel_batch(self, store_id: str, batch_id: str) -> None:
        """Call off what of a batch is not ingested yet."""
        for file_id in await self._mine.batches.cancel(store_id, batch_id):
            await self.withdraw(store_id, file_id)

    async def describe(self, store_id: str, file_id: str, attributes: Attributes) -> Member:
        """Give a file of a vector store other attributes; searches go by them when this returns."""
        member = await self._mine.describe(store_id, file_id, attributes)
        try:
            while member.status == "completed":
                await self._fill(member)
                latest = await self._mine.member(store_id, file_id)
                if latest.attributes == member.attributes:
                    return latest
                member = latest  # somebody else was at it: the last one to look puts in what is written down
        except NotFound:
            await self.withdraw(store_id, file_id)
            raise
        return member

    async def withdraw(self, store_id: str, file_id: str) -> None:
        """Take a file out of the index of a store."""
        await self.retrieves.replace(self.caller, store_id, Source(file_id), (), np.zeros((0, 0), np.float32))
        await self._mine.corpus.touch(store_id)

    async def _fill(self, member: Member) -> None:
        """Put a file into the index as SQL has it."""
        file = await self._mine.file(member.file_id)
        chunks, vectors = await self._mine.filed(member.store_id, member.file_id)
        source = Source(file.id, file.filename, file.title or "", member.attributes, member.created_at)
        await self.retrieves.replace(self.caller, member.store_id, source, chunks, vectors)
        await self._mine.corpus.touch(member.store_id)
