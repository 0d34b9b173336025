"""The Lance tables: one folder per tenant, one table per vector store; the only user of lancedb.

Lance is a cache of what SQL holds: anything here may be deleted and built again. Filters are built with lancedb.expr, never as strings.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from fcntl import LOCK_EX, flock
from hashlib import blake2b
from pathlib import Path
from random import uniform
from typing import Any, cast

import lancedb
import numpy as np
import pyarrow as pa
from lancedb.expr import col, lit
from lancedb.index import FTS, IvfSq
from lancedb.query import MatchQuery
from lancedb.table import AsyncTable
from numpy.typing import NDArray

from deployments.core.errors import InvalidRequest
from deployments.core.types import Chunk, Principal, Source, Vectors
from deployments.retriever.chunk import embedded_text
from deployments.retriever.search import Hit, terms, words

logger = logging.getLogger(__name__)

COLUMNS = ["file_id", "filename", "title", "number", "text", "headings", "start", "end", "tokens", "vector"]
CHANGES = 20
"""Changes after which a table is compacted and its text index brought up to date; new rows are scanned until then, so found at once."""
QUIET_S = 1.0
"""Pause after a change that has the same effect: over 4,000 rows, 177 of them new in 16 fragments, a search took 29 ms, and 12 after it."""
KEEP = timedelta(minutes=10)
"""How long an old version stays for readers that began with it."""
INDEXED_ROWS = 50_000
"""Rows above which nearest neighbours come from an index; below, an exact scan is fast enough."""
ATTEMPTS = 8
"""Tries of one change while other writers commit to the same table."""


class Index:
    """All tables; `of` is the only door, and opens on one tenant."""

    def __init__(self, root: Path, open_tables: int, indexed_rows: int = INDEXED_ROWS):
        self._root = root
        self._capacity = open_tables
        self._indexed_rows = indexed_rows
        self._tables: OrderedDict[tuple[str, str], AsyncTable] = OrderedDict()
        self._changes: dict[tuple[str, str], int] = {}
        self._timers: dict[tuple[str, str], asyncio.TimerHandle] = {}
        self._creating = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    def of(self, principal: Principal) -> "Shelf":
        """The stores of the principal's tenant."""
        return Shelf(self, _name(principal.tenant))

    async def close(self) -> None:
        """Wait for upkeep under way."""
        for timer in self._timers.values():
            timer.cancel()
        await asyncio.gather(*self._tasks)

    async def table(self, key: tuple[str, str], dimensions: int | None = None) -> AsyncTable | None:
        """The open table of (folder, name); None where there is none and no `dimensions` to make it with."""
        table = self._tables.pop(key, None)
        if table is None or not self._folder(key).is_dir():  # another replica may have dropped it
            table = await self._open(key, dimensions)
        if table is not None:
            self._tables[key] = table
            while len(self._tables) > self._capacity:
                self._tables.popitem(last=False)  # closed by its last user: a search may still be reading it
        return table

    async def drop(self, key: tuple[str, str]) -> None:
        """Remove a table, which need not be there; a replica that has it open finds it gone at its next read."""
        self._tables.pop(key, None)
        self._changes.pop(key, None)
        if timer := self._timers.pop(key, None):
            timer.cancel()
        await asyncio.gather(*self._tasks)  # upkeep under way would write to a table that is gone
        if self._folder(key).is_dir():
            connection = await lancedb.connect_async(self._root / key[0], read_consistency_interval=timedelta(0))
            await connection.drop_table(key[1], ignore_missing=True)

    def changed(self, key: tuple[str, str], table: AsyncTable) -> None:
        """Count a change; upkeep begins after many, or when no more come."""
        self._changes[key] = self._changes.get(key, 0) + 1
        if timer := self._timers.pop(key, None):
            timer.cancel()
        if self._changes[key] >= CHANGES:
            self._begin(key, table)
        else:
            self._timers[key] = asyncio.get_running_loop().call_later(QUIET_S, self._begin, key, table)

    def _folder(self, key: tuple[str, str]) -> Path:
        return self._root / key[0] / f"{key[1]}.lance"

    def _begin(self, key: tuple[str, str], table: AsyncTable) -> None:
        self._timers.pop(key, None)
        self._changes[key] = 0
        task = asyncio.create_task(self._tend(key, table))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _open(self, key: tuple[str, str], dimensions: int | None) -> AsyncTable | None:
        folder = self._root / key[0]
        if self._folder(key).is_dir():
            # Zero: a read sees what any replica committed before it.
            connection = await lancedb.connect_async(folder, read_consistency_interval=timedelta(0))
            with suppress(ValueError):  # another replica has only begun to create it
                table = await connection.open_table(key[1])
                if await table.list_indices():
                    return table
        return None if dimensions is None else await self._create(key, dimensions)

    async def _create(self, key: tuple[str, str], dimensions: int) -> AsyncTable:
        """Make a table, or open it where another writer was faster.

        The file lock is for other replicas: of two creations at once, Lance may let the second overwrite the rows of the first.
        """
        folder = self._root / key[0]
        await asyncio.to_thread(folder.mkdir, mode=0o700, parents=True, exist_ok=True)
        async with self._creating:
            with (folder / "create.lock").open("w") as lock:
                await asyncio.to_thread(flock, lock, LOCK_EX)
                connection = await lancedb.connect_async(folder, read_consistency_interval=timedelta(0))
                table = await connection.create_table(key[1], schema=_schema(dimensions), exist_ok=True)
                if not await table.list_indices():
                    await table.create_index("words", config=FTS(), name="words")
                return table

    async def _tend(self, key: tuple[str, str], table: AsyncTable) -> None:
        try:
            await _retry(lambda: table.optimize(cleanup_older_than=KEEP))
            if await table.count_rows() >= self._indexed_rows and not any(index.name == "vectors" for index in await table.list_indices()):
                await table.create_index("vector", config=cast(Any, IvfSq(distance_type="dot")), name="vectors", replace=False)
        except (RuntimeError, OSError) as error:
            # The table stays right, only slower; the next change tries again.
            logger.warning("upkeep of table %s put off: %s", key[1], error)
            self._changes[key] = CHANGES


class Shelf:
    """The vector stores of one tenant."""

    def __init__(self, index: Index, folder: str):
        self._index = index
        self._folder = folder

    async def search(self, store_id: str, text: str, vector: NDArray[np.float32], limit: int) -> tuple[list[Hit], list[Hit]]:
        """The nearest chunks to `vector` and the best matches of `text`, best first, at most `limit` each; none where the store is unknown.

        Raises InvalidRequest for a vector of another length than the store's, or not finite.
        """
        table = await self._index.table(self._key(store_id))
        if table is None:
            return [], []
        query = _checked(vector[np.newaxis], 1, (await table.schema()).field("vector").type.list_size)[0]
        near = table.query().nearest_to(query).distance_type("dot").select([*COLUMNS, "_distance"]).limit(limit).to_arrow()
        if wanted := terms(text):
            match = (
                table.query().nearest_to_text(cast(Any, MatchQuery)(wanted, "words")).select([*COLUMNS, "_score"]).limit(limit).to_arrow()
            )
            nearest, matching = await asyncio.gather(near, match)
            return _hits(nearest, query), _hits(matching.sort_by([("_score", "descending")]), query)
        return _hits(await near, query), []

    async def replace(self, store_id: str, source: Source, chunks: Sequence[Chunk], vectors: Vectors) -> None:
        """Make `chunks` the whole of the file, in one commit; none removes it.

        Raises InvalidRequest where vectors are not finite, not one per chunk, or of another length than the store's.
        """
        key = self._key(store_id)
        table = await self._index.table(key, vectors.shape[1] if len(chunks) else None)
        if table is None:
            return
        dimensions = (await table.schema()).field("vector").type.list_size
        if chunks:
            rows = _rows(source, chunks, _checked(vectors, len(chunks), dimensions))
            await _retry(lambda: _merge(table, source.file_id, rows))
        else:
            await _retry(lambda: table.delete(col("file_id") == lit(source.file_id)))
        self._index.changed(key, table)

    async def drop(self, store_id: str) -> None:
        """Remove the whole table of a store, its files included."""
        await self._index.drop(self._key(store_id))

    def _key(self, store_id: str) -> tuple[str, str]:
        return self._folder, _name(store_id)


def _name(identifier: str) -> str:
    return blake2b(identifier.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _schema(dimensions: int) -> pa.Schema:
    # The primary key makes Lance refuse two concurrent first inserts of one file; without it both would stay.
    key = pa.field("id", pa.string(), nullable=False, metadata={"lance-schema:unenforced-primary-key": "true"})
    texts = [pa.field(name, pa.string()) for name in ("file_id", "filename", "title", "text", "words")]
    numbers = [pa.field(name, pa.int32()) for name in ("number", "start", "end", "tokens")]
    return pa.schema(
        [key, *texts, *numbers, pa.field("headings", pa.list_(pa.string())), pa.field("vector", pa.list_(pa.float32(), dimensions))]
    )


def _checked(vectors: Vectors, count: int, dimensions: int) -> Vectors:
    if vectors.shape != (count, dimensions):
        raise InvalidRequest(f"vectors of shape {vectors.shape}, expected {(count, dimensions)}")
    if not np.isfinite(vectors).all():
        raise InvalidRequest("a vector holds a value that is not finite")
    return np.ascontiguousarray(vectors, np.float32)


def _rows(source: Source, chunks: Sequence[Chunk], vectors: Vectors) -> pa.Table:
    schema = _schema(vectors.shape[1])
    columns = {
        "id": [f"{source.file_id}:{chunk.number}" for chunk in chunks],
        "file_id": [source.file_id] * len(chunks),
        "filename": [source.filename] * len(chunks),
        "title": [source.title] * len(chunks),
        "text": [chunk.text for chunk in chunks],
        "words": [words(embedded_text(source.title, chunk)) for chunk in chunks],
        **{name: [getattr(chunk, name) for chunk in chunks] for name in ("number", "start", "end", "tokens")},
        "headings": [list(chunk.headings) for chunk in chunks],
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1]),
    }
    return pa.table(columns, schema=schema)


def _hits(found: pa.Table, query: NDArray[np.float32]) -> list[Hit]:
    vectors = found["vector"].combine_chunks().flatten().to_numpy().reshape(-1, len(query))
    return [
        Hit(row["file_id"], row["filename"], row["title"], _chunk(row), similarity=float(similarity))
        for row, similarity in zip(found.drop_columns(["vector"]).to_pylist(), vectors @ query, strict=True)
    ]


def _chunk(row: dict) -> Chunk:
    return Chunk(row["number"], row["text"], tuple(row["headings"]), row["start"], row["end"], row["tokens"])


async def _merge(table: AsyncTable, file_id: str, rows: pa.Table) -> None:
    merge = table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
    await merge.when_not_matched_by_source_delete(col("file_id") == lit(file_id)).execute(rows)


async def _retry(change: Callable[[], Awaitable[object]]) -> None:
    """Run a change again while other writers win the commit."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            await change()
            return
        except (RuntimeError, OSError) as error:
            if attempt == ATTEMPTS or "conflict" not in str(error):
                raise
            await asyncio.sleep(uniform(0.01, 0.05) * attempt)
