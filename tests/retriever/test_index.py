import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lancedb.table import AsyncTable

from deployments.core.config import Retriever
from deployments.core.errors import InvalidRequest
from deployments.core.types import Chunk, Principal, Source, Vectors
from deployments.retriever import index_upkeep as module
from deployments.retriever.index import Found, Index, Shelf, _settled
from tests.fakes import DIMENSIONS, FakeEmbeds

ALICE, BOB = Principal("alice", "k1", frozenset()), Principal("bob", "k2", frozenset())
PAYLOADS = (
    "x' OR true --",
    "' OR 1=1",
    'f" OR true',
    "f') OR (true",
    "f%' OR file_id LIKE '%",
    "../../etc/passwd",
    "f\0",
    "ｆ＇ ＯＲ true",
    "\\' OR true",
)


def chunks(*texts: str) -> tuple[list[Chunk], Vectors]:
    found = [Chunk(number, text, ("Top", "Sub"), number, number + 1, len(text.split())) for number, text in enumerate(texts)]
    return found, np.stack([FakeEmbeds.vector(text) for text in texts])


async def nothing(principal: Principal, store_id: str) -> bool:
    return False


def opened(folder: Path, **settings: Any) -> Index:
    return Index(folder, b"key", nothing, Retriever(open_tables=settings.pop("open_tables", 4), **settings))


async def fill(shelf: Shelf, file_id: str, *texts: str, store_id: str = "store") -> None:
    await shelf.replace(store_id, Source(file_id, f"{file_id}.md", file_id.title()), *chunks(*texts))


async def table_of(shelf: Shelf, store_id: str = "store") -> AsyncTable:
    place = shelf._place(store_id)
    assert place.current
    return await shelf._tables.open(place, place.current)


async def find(shelf: Shelf, text: str, store_id: str = "store", limit: int = 30) -> tuple[list[str], list[str]]:
    nearest, matching = await shelf.search(store_id, text, FakeEmbeds.vector(text), limit)
    return [hit.chunk.text for hit in nearest], [hit.chunk.text for hit in matching]


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return opened(tmp_path)


async def test_both_searches_find_a_passage_with_everything_that_was_stored(index: Index):
    shelf = index.of(ALICE)
    await fill(shelf, "greek", "alpha beta", "gamma delta epsilon")
    nearest, matching = await shelf.search("store", "gamma", FakeEmbeds.vector("gamma delta epsilon"), 30)
    assert nearest[0] == matching[0]
    assert matching[0].bm25 > 0
    assert (nearest[0].file_id, nearest[0].filename, nearest[0].title) == ("greek", "greek.md", "Greek")
    assert nearest[0].chunk == Chunk(1, "gamma delta epsilon", ("Top", "Sub"), 1, 2, 3)
    assert nearest[0].similarity == pytest.approx(1, abs=1e-5)
    assert [hit.similarity for hit in nearest] == sorted((hit.similarity for hit in nearest), reverse=True)


async def test_replacing_a_file_leaves_nothing_of_what_it_was_and_no_chunks_remove_it(index: Index):
    shelf = index.of(ALICE)
    await fill(shelf, "one", "old first", "old second", "old third")
    await fill(shelf, "two", "other words")
    await fill(shelf, "one", "new words")
    assert sorted((await find(shelf, "old first second third new words other"))[0]) == ["new words", "other words"]
    await shelf.replace("store", Source("one"), (), np.zeros((0, 0), np.float32))
    assert (await find(shelf, "new words other"))[0] == ["other words"]
    await shelf.replace("unknown", Source("one"), (), np.zeros((0, 0), np.float32))


async def test_many_new_files_are_added_in_one_commit_and_each_can_be_replaced(index: Index):
    shelf = index.of(ALICE)
    texts = {f"file {number}": (f"wheel {number}", f"mill {number}") for number in range(20)}
    await shelf.extend("store", [(Source(name), *chunks(*some)) for name, some in texts.items()])
    table = await table_of(shelf)
    before = await table.version()
    await shelf.extend("store", [(Source(f"more {number}"), *chunks(f"race {number}")) for number in range(20)])
    assert await table.version() == before + 1
    assert await table.count_rows() == 60
    await fill(shelf, "file 3", "other")
    assert await table.count_rows() == 59
    assert "wheel 3" not in (await find(shelf, "wheel 3"))[1]


async def test_files_added_while_a_table_is_built_are_in_both(index: Index):
    shelf = index.of(ALICE)
    await fill(shelf, "old", "alpha")
    await shelf.begin("store", "build", DIMENSIONS)
    added = [(Source(name), *chunks(name)) for name in ("beta", "gamma")]
    await shelf.extend("store", added)
    await shelf.add("store", "build", [(Source("old"), *chunks("alpha")), *added])
    await shelf.end("store", "build")
    assert await (await table_of(shelf)).count_rows() == 3
    assert (await find(shelf, "gamma"))[1] == ["gamma"]


async def test_a_reader_sees_the_old_or_the_new_file_and_never_none_or_both(tmp_path: Path):
    writer, reader = opened(tmp_path).of(ALICE), opened(tmp_path).of(ALICE)
    await fill(writer, "file", *(f"version 0 part {part}" for part in range(3)))
    done = asyncio.Event()

    async def write() -> None:
        for version in range(1, 15):
            await fill(writer, "file", *(f"version {version} part {part}" for part in range(3)))
        done.set()

    async def read() -> int:
        reads = 0
        while not done.is_set():
            found, _ = await find(reader, "version part")
            assert len(found) == 3, found
            assert len({text.split()[1] for text in found}) == 1, found
            reads += 1
        return reads

    _, reads = await asyncio.gather(write(), read())
    assert reads > 0
    assert (await find(reader, "version"))[0][0].startswith("version 14")


async def test_two_writers_of_one_file_leave_one_whole_version(tmp_path: Path):
    shelves = [opened(tmp_path).of(ALICE) for _ in range(2)]
    for file_id in ("first", "second"):
        writes = [fill(shelves[n % 2], file_id, *(f"{file_id} writer {n} part {part}" for part in range(4 + n))) for n in range(6)]
        await asyncio.gather(*writes)
        found = [text for text in (await find(shelves[0], f"{file_id} writer part"))[0] if text.startswith(file_id)]
        writers = {int(text.split()[2]) for text in found}
        assert len(writers) == 1
        assert len(found) == 4 + writers.pop()


async def test_two_writers_of_many_files_lose_none(tmp_path: Path):
    indexes = [opened(tmp_path) for _ in range(2)]
    await asyncio.gather(*(fill(indexes[n % 2].of(ALICE), f"file {n}", f"text {n}") for n in range(2 * module.CHANGES + 5)))
    assert len((await find(indexes[0].of(ALICE), "text", limit=100))[0]) == 2 * module.CHANGES + 5
    await asyncio.gather(*(index.close() for index in indexes))


async def test_what_is_written_is_found_at_once_by_another_replica(tmp_path: Path):
    first, second = opened(tmp_path).of(ALICE), opened(tmp_path).of(ALICE)
    assert await find(second, "alpha") == ([], [])
    for number in range(5):
        await fill(first, f"file {number}", f"alpha text {number}")
        nearest, matching = await find(second, "alpha")
        assert len(nearest) == len(matching) == number + 1


async def test_a_tenant_never_finds_what_another_tenant_stored(tmp_path: Path, index: Index):
    await fill(index.of(ALICE), "secret", "the canary sings")
    assert await find(index.of(BOB), "the canary sings") == ([], [])
    await fill(index.of(BOB), "secret", "nothing here")
    await index.of(BOB).replace("store", Source("secret"), (), np.zeros((0, 0), np.float32))
    assert (await find(index.of(ALICE), "the canary sings"))[0] == ["the canary sings"]
    assert len(list(tmp_path.iterdir())) == 2


async def test_stores_of_one_tenant_are_apart(index: Index):
    shelf = index.of(ALICE)
    await fill(shelf, "file", "alpha", store_id="one")
    await fill(shelf, "file", "beta", store_id="two")
    assert (await find(shelf, "alpha beta", store_id="one"))[0] == ["alpha"]


@pytest.mark.parametrize("payload", PAYLOADS)
async def test_no_identifier_is_read_as_a_filter_or_a_path(index: Index, tmp_path: Path, payload: str):
    shelf = index.of(ALICE)
    await fill(shelf, "innocent", "alpha beta")
    await shelf.replace("store", Source(payload), (), np.zeros((0, 0), np.float32))
    await fill(shelf, payload, "gamma")
    await fill(shelf, payload, "delta")
    assert sorted((await find(shelf, "alpha beta gamma delta"))[0]) == ["alpha beta", "delta"]
    await fill(index.of(Principal(payload, "k", frozenset())), "f", "x", store_id=payload)
    assert all(len(path.name) == 32 for path in tmp_path.iterdir())


@pytest.mark.parametrize(
    "text", ["", " ", '"', "'", "AND", "alpha AND (", "a:b^2 ~3 *?", "\\", "'; DROP TABLE", "\0", "🙂", "alpha " * 5000]
)
async def test_no_question_breaks_the_text_search(index: Index, text: str):
    shelf = index.of(ALICE)
    await fill(shelf, "file", "alpha beta")
    nearest, matching = await find(shelf, text)
    assert nearest == ["alpha beta"]
    assert matching == (["alpha beta"] if "alpha" in text else [])


async def test_an_identifier_is_found_by_its_parts_and_the_title_by_its_words(index: Index):
    shelf = index.of(ALICE)
    await fill(shelf, "file", "call BackgroundTasks now", "other")
    assert (await find(shelf, "background"))[1] == ["call BackgroundTasks now"]
    assert len((await find(shelf, "sub"))[1]) == 2


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
async def test_vectors_that_are_not_finite_or_do_not_fit_are_refused(index: Index, bad: float):
    shelf = index.of(ALICE)
    await fill(shelf, "file", "alpha")
    some, vectors = chunks("one", "two")
    for wrong in (np.where(np.eye(2, DIMENSIONS) > 0, bad, vectors).astype(np.float32), vectors[:1], vectors[:, :10]):
        with pytest.raises(InvalidRequest):
            await shelf.replace("store", Source("file", "f", "F"), some, wrong)
        with pytest.raises(InvalidRequest):
            await shelf.search("store", "alpha", wrong[0] if wrong.shape[1] < DIMENSIONS else np.full(DIMENSIONS, bad, np.float32), 5)
    assert (await find(shelf, "alpha"))[0] == ["alpha"]


async def test_only_so_many_tables_stay_open(tmp_path: Path):
    index = opened(tmp_path, open_tables=2)
    shelf = index.of(ALICE)
    await asyncio.gather(*(fill(shelf, "file", f"alpha {number}", store_id=str(number)) for number in range(6)))
    assert len(index.tables) == 2
    found = await asyncio.gather(*(find(shelf, "alpha", store_id=str(number)) for number in range(6)))
    assert [nearest for nearest, _ in found] == [[f"alpha {number}"] for number in range(6)]


async def test_upkeep_compacts_and_indexes_and_a_large_table_gets_a_vector_index(tmp_path: Path):
    index = opened(tmp_path, indexed_rows=300)
    shelf = index.of(ALICE)
    for number in range(module.CHANGES):
        await fill(shelf, f"file {number}", *(f"alpha{number} beta{part} gamma" for part in range(20)))
    await index.close()
    table = await table_of(shelf)
    stats = await table.index_stats("words")
    assert stats is not None
    assert (stats.num_indexed_rows, stats.num_unindexed_rows) == (20 * module.CHANGES, 0)
    assert {one.name for one in await table.list_indices()} == {"words", "vectors"}
    assert (await find(shelf, "alpha7 beta7 gamma"))[0][0] == "alpha7 beta7 gamma"


async def test_upkeep_comes_when_no_more_changes_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "QUIET_S", 0.05)
    index = opened(tmp_path)
    shelf = index.of(ALICE)
    for number in range(3):
        await fill(shelf, f"file {number}", f"alpha{number} gamma")
    table = await table_of(shelf)

    async def scanned() -> int:
        stats = await table.index_stats("words")
        return stats.num_unindexed_rows if stats else -1

    async with asyncio.timeout(10):
        while await scanned():
            await asyncio.sleep(0.02)
    await index.close()


@pytest.mark.parametrize(("writes", "settled"), [(0, True), (2, True), (99, False)])
async def test_both_searches_see_one_version_unless_it_changes_faster_than_they_read(index: Index, writes: int, settled: bool):
    shelf = index.of(ALICE)
    await fill(shelf, "one", "alpha")
    table = await table_of(shelf)
    left = writes

    async def query() -> Found:
        nonlocal left
        nearest = await table.query().select(["record"]).with_row_id().to_arrow()
        if left:
            left -= 1
            await fill(shelf, "one", f"alpha {left}")
        ids = nearest["_rowid"].to_pylist()
        return Found(ids, {}, await table.take_row_ids(ids).select(["record"]).with_row_id().to_arrow())

    found, version = await _settled(table, query, await table.version())
    assert (version is not None) == settled
    assert found.whole == settled
    assert version is None or version == await table.version()


async def test_a_dropped_store_is_gone_for_every_replica_and_from_the_disk_and_can_be_made_again(index: Index, tmp_path: Path):
    shelf, other = index.of(ALICE), opened(tmp_path)
    await fill(shelf, "one", "alpha beta")
    await fill(shelf, "one", "kept", store_id="kept")
    assert await find(other.of(ALICE), "alpha beta") == (["alpha beta"], ["alpha beta"])
    await index.of(BOB).drop("store")
    assert await find(shelf, "alpha beta") == (["alpha beta"], ["alpha beta"])
    await shelf.drop("store")
    await shelf.drop("store")
    assert len(list(tmp_path.glob("*/*/*.lance"))) == 1
    for replica in (shelf, other.of(ALICE)):
        assert await find(replica, "alpha beta") == ([], [])
        await replica.replace("store", Source("one"), (), np.zeros((0, 0), np.float32))
    await fill(other.of(ALICE), "two", "gamma")
    for replica in (shelf, other.of(ALICE)):
        assert await find(replica, "gamma") == (["gamma"], ["gamma"])
    assert await find(shelf, "kept", store_id="kept") == (["kept"], ["kept"])
    await index.close()
    await other.close()
