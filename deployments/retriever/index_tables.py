"""The open Lance tables of one process, the least recently used of which is closed; and what is done to one table."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from random import uniform
from typing import Any, TypeVar, cast

import lancedb
import pyarrow as pa
from lancedb.expr import col, lit
from lancedb.index import FTS, IvfFlat
from lancedb.table import AsyncTable

from deployments.core.errors import InvalidRequest, Overloaded
from deployments.retriever.index_place import Place
from deployments.retriever.index_rows import MAX_ATTRIBUTES, attribute_columns, schema, widened

DAMAGE = (RuntimeError, OSError, ValueError)
"""What Lance raises for a table that it can not read."""
PARTITION_ROWS = 1_600
"""Vectors in a partition. Of 100,000, 16 partitions of this size took 8.8 ms at recall .988; of those that Lance makes, 28 ms at .998."""
ATTEMPTS = 12
"""Tries of one change while other writers commit to the same table."""
LOST = ("conflict", "already exists")
"""What Lance says where another writer was faster, with other rows or with the same column."""
INDEX_CACHE_BYTES = 256 << 20
"""What Lance may keep in memory of all indexes; its own default is 6 GiB."""
METADATA_CACHE_BYTES = 64 << 20

Result = TypeVar("Result")


class Tables:
    """Tables by the place they are at; one place has one table open, that which was asked for last."""

    def __init__(self, capacity: int):
        self._capacity = capacity
        self._open: OrderedDict[tuple[Path, str], AsyncTable] = OrderedDict()
        self._session = lancedb.Session(index_cache_size_bytes=INDEX_CACHE_BYTES, metadata_cache_size_bytes=METADATA_CACHE_BYTES)

    def __len__(self) -> int:
        return len(self._open)

    async def open(self, place: Place, name: str) -> AsyncTable:
        """A table that is there; raises one of DAMAGE where it is not, or can not be read."""
        key = place.folder, name
        table = self._open.pop(key, None) or await (await self._connect(place)).open_table(name)
        self._open[key] = table
        while len(self._open) > self._capacity:
            self._open.popitem(last=False)  # closed by its last user: a search may still be reading it
        return table

    async def create(self, place: Place, name: str, dimensions: int) -> AsyncTable:
        """A new table without rows; the place's lock must be held alone."""
        table = await (await self._connect(place)).create_table(name, schema=schema(dimensions))
        self._open[place.folder, name] = table
        return table

    def forget(self, place: Place, name: str) -> None:
        """Open the table anew the next time."""
        self._open.pop((place.folder, name), None)

    async def _connect(self, place: Place) -> Any:
        # Zero: a read sees what any replica committed before it.
        return await lancedb.connect_async(place.folder, read_consistency_interval=timedelta(0), session=self._session)


async def dimensions_of(table: AsyncTable) -> int:
    """The length of the table's vectors."""
    return (await table.schema()).field("vector").type.list_size


async def merge(table: AsyncTable, file_id: str, rows: pa.Table) -> bool:
    """Make the rows the whole of a file, in one commit; whether something of it was there before.

    Raises InvalidRequest where the table has too many attributes.
    """
    merge = table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
    merge = merge.when_not_matched_by_source_delete(col("file_id") == lit(file_id))

    async def change() -> Any:
        return await merge.execute(widened(rows, await _widen(table, rows)))

    result = await retry(change)
    return result.num_updated_rows + result.num_deleted_rows > 0


async def remove(table: AsyncTable, file_id: str) -> bool:
    """Remove a file; whether there was one."""
    wanted = col("file_id") == lit(file_id)
    if not await table.query().where(wanted).select(["id"]).limit(1).to_list():
        return False
    await retry(lambda: table.delete(wanted))
    return True


async def append(table: AsyncTable, rows: pa.Table) -> None:
    """Add rows of files that the table has nothing of."""

    async def change() -> Any:
        return await table.add(widened(rows, await _widen(table, rows)))

    await retry(change)


async def index_words(table: AsyncTable) -> None:
    """Index the table's text; new rows are scanned until the next `optimize`, so found at once."""
    await retry(lambda: table.create_index("words", config=FTS(), name="words"))


async def index_vectors(table: AsyncTable) -> None:
    """Index the table's vectors, where that has not been done: partitions of whole vectors, so disk holds each twice.

    Scalar quantisation is smaller and misses more: of 100,000 passages recall@10 was .967 at most without reading candidates again.
    """
    if not any(index.name == "vectors" for index in await table.list_indices()):
        partitions = max(2, await table.count_rows() // PARTITION_ROWS)
        config = cast(Any, IvfFlat(distance_type="dot", num_partitions=partitions))
        await retry(lambda: table.create_index("vector", config=config, name="vectors", replace=False))


async def retry(change: Callable[[], Awaitable[Result]]) -> Result:
    """Run a change again while other writers win the commit; raises Overloaded where they always do."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return await change()
        except DAMAGE as error:
            if not any(word in str(error) for word in LOST):
                raise
            await asyncio.sleep(uniform(0.01, 0.05) * attempt)
    raise Overloaded("too many changes of this vector store at once", retry_after_s=1)


async def _widen(table: AsyncTable, rows: pa.Table) -> pa.Schema:
    """The table's schema, once it has a column for each attribute of the rows."""
    held = await table.schema()
    lacking = attribute_columns(rows.column_names) - set(held.names)
    if not lacking:
        return held
    if len(attribute_columns(held.names)) + len(lacking) > MAX_ATTRIBUTES:
        raise InvalidRequest(f"a vector store has {MAX_ATTRIBUTES} different attribute names at most", param="attributes")
    await table.add_columns(pa.schema([pa.field(name, pa.string()) for name in sorted(lacking)]))
    return await table.schema()
