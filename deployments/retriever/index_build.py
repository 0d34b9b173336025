"""Tables that take the place of others: built beside them, kept up to date meanwhile, and put in force in one step."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from deployments.core.errors import Conflict
from deployments.retriever.index_place import Place
from deployments.retriever.index_tables import Tables, append, index_vectors, index_words, retry


class Builds:
    """Builds tables. Whoever changes a file meanwhile writes to both, so nothing is lost however long it takes."""

    def __init__(self, tables: Tables, indexed_rows: int):
        self._tables = tables
        self._indexed_rows = indexed_rows

    async def begin(self, place: Place, name: str, dimensions: int) -> None:
        """Begin; a table that was being built before is given up."""
        async with place.alone():
            await self._begin(place, name, dimensions)

    async def begin_if_idle(self, place: Place, current: str, name: str, dimensions: int) -> bool:
        """Begin, unless another table is being built, or is in force by now."""
        async with place.alone():
            idle = place.current == current and (place.building is None or place.abandoned)
            if idle:
                await self._begin(place, name, dimensions)
            return idle

    async def add(self, place: Place, name: str, rows: Sequence[pa.Table]) -> None:
        """Add rows of files that have not changed since the beginning; raises Conflict where another table is being built by now."""
        async with place.alone():
            _check(place, name)
            touched = place.touched()
            kept = [part for table in rows if len(part := table.filter(_mask(table, touched)))]
            if kept:
                await append(await self._tables.open(place, name), pa.concat_tables(kept, promote_options="default"))
            place.beat()

    async def end(self, place: Place, name: str) -> None:
        """Index the table and put it in force; raises Conflict where another one is being built by now."""
        _check(place, name)
        table = await self._tables.open(place, name)
        await retry(table.optimize)  # of 100,000 rows in 50 fragments, 60 took 15 ms to read; of those in one, 5
        await index_words(table)
        if await table.count_rows() >= self._indexed_rows:
            await index_vectors(table)
        async with place.alone():
            _check(place, name)
            before = place.current
            place.swap(name)
        if before:
            self._tables.forget(place, before)

    async def give_up(self, place: Place, name: str) -> None:
        """Stop building the table, unless another one is being built by now: the next may begin at once."""
        async with place.alone():
            if place.building == name:
                place.abandon()

    async def drop(self, place: Place, name: str | None) -> None:
        """Remove the table in force, if it is still that one."""
        async with place.alone():
            if place.current == name:
                place.swap(None)
        if name:
            self._tables.forget(place, name)

    async def _begin(self, place: Place, name: str, dimensions: int) -> None:
        # In this order: who is killed in between leaves a folder to remove, and no writer looking for a table that is not there.
        await self._tables.create(place, name, dimensions)
        place.begin(name)


def _check(place: Place, name: str) -> None:
    if place.building != name:
        raise Conflict("another table is being built in the place of this one")


def _mask(rows: pa.Table, touched: object) -> pa.Array:
    files = rows["file_id"].to_pylist()
    return pa.array(np.array([file_id not in touched for file_id in files], np.bool_))  # type: ignore[operator]
