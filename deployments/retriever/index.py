"""The Lance tables: one folder per tenant, in it one per vector store; `index*.py` are the only users of lancedb.

Lance is a cache of what SQL holds: anything here may be deleted and built again. A row that is not as it was written is never served:
it is dropped, and the table is rebuilt. Filters are built with lancedb.expr, never as strings.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from hashlib import blake2b
from operator import itemgetter
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import pyarrow as pa
from lancedb.query import MatchQuery
from lancedb.table import AsyncTable
from numpy.typing import NDArray

from deployments.core.config import Retriever as Settings
from deployments.core.errors import InvalidRequest, Overloaded
from deployments.core.filters import Filter
from deployments.core.telemetry import LEG_DURATION
from deployments.core.types import Chunk, Principal, Source, Vectors
from deployments.retriever.index_build import Builds
from deployments.retriever.index_filters import expression
from deployments.retriever.index_place import Place, name_of
from deployments.retriever.index_rows import READ, attribute_columns, checked, hit, read, rows, vectors_of
from deployments.retriever.index_tables import DAMAGE, Tables, append, dimensions_of, index_words, merge, remove
from deployments.retriever.index_upkeep import Upkeep
from deployments.retriever.recall import Recall, Results, State, asked
from deployments.retriever.search import terms

logger = logging.getLogger(__name__)

REPORT_S = 60.0
"""A table that is still damaged is reported again after so long."""
WAIT_S = 2.0
"""How long a search waits for a rebuild where it has nothing else to answer from."""
RETRY_S = 5.0
"""When to come back for the result of a rebuild."""
PROBES = 16
"""Partitions of an index of vectors that are read; under a condition, as many more as it takes to find `limit` rows that meet it."""
SETTLES = 4
"""Searches made anew, at most, to have all of their steps see one version of a table that is written to."""
READS = 20
"""The same where rows that were found are gone before they are read."""
LARGE_ROWS = 64
"""Files of more passages are prepared in a thread, so that searches are not kept waiting."""

Repair = Callable[[Principal, str], Awaitable[bool]]
"""Asks for a rebuild of a store; False where nothing is known of which it could consist."""

Change = Callable[[AsyncTable], Awaitable[bool]]
"""Changes one table; whether it deleted something."""


class Index:
    """All tables; `of` is the only door, and opens on one tenant."""

    def __init__(self, root: Path, key: bytes, repair: Repair, settings: Settings):
        self.tables = Tables(settings.open_tables)
        self.recall = Recall(settings.recall_bytes)
        self.builds = Builds(self.tables, settings.indexed_rows)
        self.upkeep = Upkeep(self.tables, self.builds, self.key, settings)
        self._root, self._key, self._repair = root, key, repair
        self._reported: dict[tuple[Path, str | None], float] = {}

    def of(self, principal: Principal) -> "Shelf":
        """The stores of the principal's tenant."""
        return Shelf(self, principal, self._root / name_of(principal.tenant))

    async def close(self) -> None:
        """Wait for upkeep under way."""
        await self.upkeep.close()

    def key(self, place: Place) -> bytes:
        """The key of a table's row digests: a row that is moved to another store is none of it."""
        return blake2b(f"{place.folder.parent.name}/{place.folder.name}".encode(), key=self._key, digest_size=32).digest()

    async def report(self, principal: Principal, store_id: str, place: Place, name: str | None, what: object) -> bool:
        """Have a table that is damaged, or lacking, rebuilt, and ask so once a minute; False where there is nothing to build it from."""
        now = time.monotonic()
        if now - self._reported.get((place.folder, name), -REPORT_S) < REPORT_S:
            return True
        known = await self._repair(principal, store_id)
        if known:
            self._reported[place.folder, name] = now
            logger.error("table %s will be rebuilt: %s", place.folder.name, what)
        return known


class Shelf:
    """The vector stores of one tenant."""

    def __init__(self, index: Index, principal: Principal, folder: Path):
        self._index = index
        self._tables = index.tables
        self._principal = principal
        self._folder = folder

    async def search(self, store_id: str, text: str, vector: NDArray[np.float32], limit: int, condition: Filter | None = None) -> Results:
        """The nearest chunks to `vector` and the best matches of `text`, best first, at most `limit` each; none where the store is unknown.

        Only chunks whose attributes meet the condition. Raises InvalidRequest for a vector of another length than the store's, or not of
        unit length, and for a filter that is too large; Overloaded where the store is being rebuilt and nothing else can be said.
        """
        place, until = self._place(store_id), time.monotonic() + WAIT_S
        failed: str | None = None
        while True:
            name = place.current
            if name is None and place.building is None and not await self._report(store_id, place, None, "it is not there"):
                return [], []
            if name is not None:
                try:
                    return await self._search(store_id, place, name, text, vector, limit, condition)
                except DAMAGE as error:
                    self._tables.forget(place, name)
                    if failed == name and not await self._report(store_id, place, name, error):
                        await self._index.builds.drop(place, name)
                    failed, first = name, failed != name
                    if first:
                        continue  # it may have been put out of force under our hands
            if time.monotonic() > until:
                raise Overloaded("the index of this vector store is being rebuilt", code="index_rebuilding", retry_after_s=RETRY_S)
            await asyncio.sleep(0.05)

    async def replace(self, store_id: str, source: Source, chunks: Sequence[Chunk], vectors: Vectors) -> None:
        """Make `chunks` the whole of the file, in one commit; none removes it.

        Raises InvalidRequest where vectors are not of unit length, not one per chunk, or of another length than the store's, and where the
        store would have too many attributes; Overloaded where the store has to be rebuilt first.
        """
        place = self._place(store_id)
        made = await self._rows(place, source, chunks, vectors) if chunks else None

        async def change(table: AsyncTable) -> bool:
            return await remove(table, source.file_id) if made is None else await merge(table, source.file_id, made)

        await self._change_all(store_id, place, [source.file_id], made, change)

    async def extend(self, store_id: str, files: Sequence[tuple[Source, Sequence[Chunk], Vectors]]) -> None:
        """Add whole files that the store has nothing of, in one commit; raises as `replace` does."""
        place = self._place(store_id)
        made = [await self._rows(place, *file) for file in files]
        ids = [source.file_id for source, _, _ in files]

        async def change(table: AsyncTable) -> bool:
            await append(table, pa.concat_tables(made, promote_options="default"))
            return False

        if made:
            await self._change_all(store_id, place, ids, made[0], change)

    async def begin(self, store_id: str, build: str, dimensions: int) -> None:
        """Begin to build a table that takes the place of the store's; another one that is being built is given up."""
        await self._index.builds.begin(self._place(store_id), name_of(build), dimensions)

    async def add(self, store_id: str, build: str, files: Sequence[tuple[Source, Sequence[Chunk], Vectors]]) -> None:
        """Add whole files, or parts that follow each other; what changed since the beginning is passed over. Raises Conflict."""
        place = self._place(store_id)
        made = [await self._rows(place, *file) for file in files]
        await self._index.builds.add(place, name_of(build), made)

    async def end(self, store_id: str, build: str) -> None:
        """Put the table that was built in force; raises Conflict where another one is being built by now."""
        await self._index.builds.end(self._place(store_id), name_of(build))

    async def drop(self, store_id: str) -> None:
        """Remove the store's table with all its bytes."""
        place = self._place(store_id)
        await self._index.builds.drop(place, place.current)

    async def verify(self, store_id: str) -> tuple[set[tuple[str, int]], int]:
        """The file and number of every row that is as it was written, and how many are not; raises one of DAMAGE."""
        place = self._place(store_id)
        if (name := place.current) is None:
            return set(), 0
        return await self._index.upkeep.scrub(place, name)

    async def _search(
        self, store_id: str, place: Place, name: str, text: str, vector: NDArray[np.float32], limit: int, condition: Filter | None
    ) -> Results:
        table = await self._tables.open(place, name)
        self._index.upkeep.opened(place)
        state = State(name, await table.version())
        schema = await table.schema()
        query = checked(vector[np.newaxis], 1, schema.field("vector").type.list_size)[0]
        question = asked(text, query, limit, repr(condition))
        if kept := self._index.recall.get(place.folder, state, question):
            return kept
        # In a thread, as it takes half a second to make an expression of 100,000 values.
        where = True if condition is None else await asyncio.to_thread(expression, condition, attribute_columns(schema.names))
        if where is False:
            return [], []
        columns = [*READ, *(attribute_columns(schema.names) if condition else ())]
        found, settled = await _settled(table, partial(_query, table, query, terms(text), columns, limit, where), state.version)
        results, bad = _genuine(self._index.key(place), found, query)
        if bad:
            await self._report(store_id, place, name, f"{bad} rows are not as they were written")
            if not any(results):
                raise ValueError("no row of the result is as it was written")
        elif settled is not None:
            self._index.recall.put(place.folder, State(name, settled), question, results)
        return results

    async def _change_all(self, store_id: str, place: Place, file_ids: Sequence[str], made: pa.Table | None, change: Change) -> None:
        """Change files in every table of a place, which gets one where rows are `made` and there is none."""
        while True:
            async with place.shared():
                if made is None or place.current or place.building:
                    await self._write(store_id, place, file_ids, made, change)
                    return
            async with place.alone():
                if place.current is None and place.building is None:
                    await self._create(place, made.schema.field("vector").type.list_size)

    async def _write(self, store_id: str, place: Place, file_ids: Sequence[str], made: pa.Table | None, change: Change) -> None:
        """Change files in the table in force and in the one that is being built; the place's lock is held."""
        current, building = place.current, place.building
        whole = bool(current)
        if building:
            try:
                for file_id in file_ids:
                    place.touch(file_id)  # first: who is killed here does the change again, and the builder must not add the file beside it
                await self._change(place, building, made, change)
            except DAMAGE as error:
                logger.warning("the build of table %s is given up: %s", place.folder.name, error)
                place.abandon()
                building = None
        if current:
            try:
                await self._change(place, current, made, change)
            except DAMAGE as error:
                self._tables.forget(place, current)
                whole = not await self._report(store_id, place, current, error) and made is None
        if not whole and not building and (made is not None or current):
            raise Overloaded("the index of this vector store is being rebuilt", code="index_rebuilding", retry_after_s=RETRY_S)

    async def _change(self, place: Place, name: str, made: pa.Table | None, change: Change) -> None:
        table = await self._tables.open(place, name)
        if made is not None:
            wanted = await dimensions_of(table)
            if made.schema.field("vector").type.list_size != wanted:
                raise InvalidRequest(f"vectors of {made.schema.field('vector').type.list_size} dimensions, expected {wanted}")
        if await change(table):
            place.soil()
        self._index.upkeep.changed(place)

    async def _create(self, place: Place, dimensions: int) -> None:
        name = name_of(f"{place.folder} {time.time_ns()}")
        await index_words(await self._tables.create(place, name, dimensions))
        place.swap(name)

    async def _rows(self, place: Place, source: Source, chunks: Sequence[Chunk], vectors: Vectors) -> pa.Table:
        sound = checked(vectors, len(chunks), vectors.shape[-1])
        if len(chunks) <= LARGE_ROWS:
            return rows(self._index.key(place), source, chunks, sound)
        return await asyncio.to_thread(rows, self._index.key(place), source, chunks, sound)

    async def _report(self, store_id: str, place: Place, name: str | None, what: object) -> bool:
        return await self._index.report(self._principal, store_id, place, name, what)

    def _place(self, store_id: str) -> Place:
        return Place(self._folder / name_of(store_id))


class Found(msgspec.Struct, frozen=True):
    """What both searches of a table found: ids of rows, best first, and what the text search gave them; and all these rows, once each."""

    nearest: list[int]
    matching: dict[int, float]
    rows: pa.Table

    @property
    def whole(self) -> bool:
        """Whether all of the rows were still there when they were read."""
        return self.rows.num_rows == len({*self.nearest, *self.matching})


async def _settled(table: AsyncTable, query: Callable[[], Awaitable[Found]], version: int) -> tuple[Found, int | None]:
    """What was found in one version of the table, which is returned as well; None where it changes faster than it is read.

    Each step of a query reads what is committed when it begins: in between, somebody may have replaced a file.
    """
    found = await query()
    for attempt in range(READS):
        if (now := await table.version()) == version:
            return found, version
        if attempt >= SETTLES and found.whole:
            break
        found, version = await query(), now
    return found, None


async def _query(table: AsyncTable, query: NDArray[np.float32], wanted: str, columns: list[str], limit: int, where: Any) -> Found:
    near = table.query().nearest_to(query).distance_type("dot").nprobes(PROBES).select(["_distance"]).with_row_id().limit(limit)
    match = table.query().nearest_to_text(cast(Any, MatchQuery)(wanted, "words")).select(["_score"]).with_row_id().limit(limit)
    if where is not True:
        near, match = near.maximum_nprobes(0).where(where), match.where(where)
    nearest, matching = await asyncio.gather(_leg("vectors", near), _leg("words", match) if wanted else _nothing())
    ids = nearest["_rowid"].to_pylist()
    scores = dict(zip(matching["_rowid"].to_pylist(), matching["_score"].to_pylist(), strict=True))
    # Once for both, as to read the columns takes longer than to find the rows; in the order of their places, without those that are gone.
    rows = await _leg("rows", table.take_row_ids(list({*ids, *scores})).select(columns).with_row_id())
    return Found(ids, dict(sorted(scores.items(), key=itemgetter(1), reverse=True)), rows)


async def _leg(name: str, query: Any) -> pa.Table:
    began = time.perf_counter()
    found = await query.to_arrow()
    LEG_DURATION.see(time.perf_counter() - began, name)
    return found


async def _nothing() -> pa.Table:
    return pa.table({"_rowid": pa.array([], pa.uint64()), "_score": pa.array([], pa.float32())})


def _genuine(key: bytes, found: Found, query: NDArray[np.float32]) -> tuple[Results, int]:
    """The hits of each search, and the number of rows that are not as they were written."""
    records = read(key, found.rows)
    cosines = vectors_of(found.rows) @ query
    sound = {
        row: hit(*record, float(cosine), found.matching.get(row, 0.0))
        for row, record, cosine in zip(found.rows["_rowid"].to_pylist(), records, cosines, strict=True)
        if record is not None
    }
    nearest, matching = ([sound[row] for row in side if row in sound] for side in (found.nearest, found.matching))
    return (nearest, matching), len(records) - len(sound)
