"""What tables need in the background: compaction, indexes, and the removal of bytes that nobody may read any more."""

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import timedelta

import pyarrow as pa

from deployments.core.config import Retriever as Settings
from deployments.core.errors import Conflict, Overloaded
from deployments.retriever.index_build import Builds
from deployments.retriever.index_place import Place, name_of
from deployments.retriever.index_rows import read
from deployments.retriever.index_tables import DAMAGE, Tables, dimensions_of, index_vectors, retry

logger = logging.getLogger(__name__)

CHANGES = 20
"""Changes after which a table is compacted and its text index brought up to date; new rows are scanned until then, so found at once."""
QUIET_S = 1.0
"""Pause after a change that has the same effect: over 4,000 rows, 177 of them new in 16 fragments, a search took 29 ms, and 12 after it."""
KEEP = timedelta(minutes=10)
"""How long an old version stays for readers that began with it."""
COPIED_ROWS = 2048
"""Rows copied at a time: while they are written, writers wait."""


class Upkeep:
    """Tends tables after changes, and rewrites those of which something was deleted."""

    def __init__(self, tables: Tables, builds: Builds, key: Callable[[Place], bytes], settings: Settings):
        self._tables, self._builds, self._key = tables, builds, key
        self._settings = settings
        self._changes: dict[Place, int] = {}
        self._quiet: dict[Place, asyncio.TimerHandle] = {}
        self._erasing: dict[Place, asyncio.TimerHandle] = {}
        self._seen: set[Place] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Begin nothing more, and wait for what is under way; what is to be erased is erased by who opens the table next."""
        for timer in (*self._quiet.values(), *self._erasing.values()):
            timer.cancel()
        await asyncio.gather(*self._tasks)

    def opened(self, place: Place) -> None:
        """Take over what a process that ended has left."""
        if place not in self._seen:
            self._seen.add(place)
            if place.stale:
                self._erase_later(place)

    def changed(self, place: Place) -> None:
        """Count a change; upkeep begins after many, or when no more come, and erasure in due time."""
        self._changes[place] = self._changes.get(place, 0) + 1
        if timer := self._quiet.pop(place, None):
            timer.cancel()
        if self._changes[place] >= CHANGES:
            self._tend_now(place)
        else:
            self._quiet[place] = asyncio.get_running_loop().call_later(QUIET_S, self._tend_now, place)
        if place.stale:
            self._erase_later(place)

    async def scrub(self, place: Place, name: str) -> tuple[set[tuple[str, int]], int]:
        """Read every row; the file and number of those that are as they were written, and how many are not. Raises one of DAMAGE."""
        whole, bad, key = set[tuple[str, int]](), 0, self._key(place)
        async for batch in await (await self._tables.open(place, name)).query().to_batches(max_batch_length=COPIED_ROWS):
            for record in await asyncio.to_thread(read, key, pa.Table.from_batches([batch])):
                if record is None:
                    bad += 1
                else:
                    whole.add((record[0].file_id, record[1].number))
        return whole, bad

    async def erase(self, place: Place) -> bool:
        """Copy the rows of a table into a new one that takes its place; of the old one nothing is left. False where it has to wait.

        Lance keeps deleted rows in its files, and their words and codes in its indexes, until all of these are written anew.
        """
        current = place.current
        if current is None:
            return True
        table, name = await self._tables.open(place, current), name_of(f"{place.folder} {time.time_ns()}")
        if not await self._builds.begin_if_idle(place, current, name, await dimensions_of(table)):
            return False
        try:
            await self._copy(place, current, name)
            await self._builds.end(place, name)
        except Exception:
            await self._builds.give_up(place, name)
            raise
        return True

    async def _copy(self, place: Place, current: str, name: str) -> None:
        key = self._key(place)
        async for batch in await (await self._tables.open(place, current)).query().to_batches(max_batch_length=COPIED_ROWS):
            rows = pa.Table.from_batches([batch])
            if None in await asyncio.to_thread(read, key, rows):
                raise ValueError("rows are not as they were written")
            await self._builds.add(place, name, [_narrowed(rows)])

    def _tend_now(self, place: Place) -> None:
        self._quiet.pop(place, None)
        self._changes[place] = 0
        self._start(self._tend(place))

    def _erase_later(self, place: Place) -> None:
        if place not in self._erasing:
            self._erasing[place] = asyncio.get_running_loop().call_later(self._settings.erase_after_s, self._erase_now, place)

    def _erase_now(self, place: Place) -> None:
        self._erasing.pop(place, None)
        if place.stale:  # or another process was faster
            self._start(self._erase(place))

    def _start(self, work: object) -> None:
        task = asyncio.ensure_future(work)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tend(self, place: Place) -> None:
        name = place.current
        if name is None:
            return
        try:
            table = await self._tables.open(place, name)
            await retry(lambda: table.optimize(cleanup_older_than=KEEP))
            if await table.count_rows() >= self._settings.indexed_rows:
                await index_vectors(table)
        except (*DAMAGE, Overloaded) as error:
            # The table stays right, only slower; the next change tries again.
            if place.current == name:
                logger.warning("upkeep of table %s put off: %s", place.folder.name, error)
                self._changes[place] = CHANGES

    async def _erase(self, place: Place) -> None:
        try:
            if not await self.erase(place):
                self._erase_later(place)
        except (*DAMAGE, Conflict, Overloaded) as error:
            logger.warning("erasure in table %s put off: %s", place.folder.name, error)
            self._erase_later(place)


def _narrowed(rows: pa.Table) -> pa.Table:
    """The rows without columns that are empty."""
    return rows.select([name for name in rows.column_names if rows[name].null_count < rows.num_rows])
