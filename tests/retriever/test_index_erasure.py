"""What is deleted leaves the disk, whatever Lance keeps by itself."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from deployments.core.config import Retriever
from deployments.core.types import Chunk, Principal, Source
from deployments.retriever.index import Index, Shelf
from deployments.retriever.index_place import Place
from tests.fakes import FakeEmbeds, until

ALICE = Principal("alice", "k1", frozenset())
SECRET = "the xylograph of qwertzuiop"


async def nothing(principal: Principal, store_id: str) -> bool:
    return False


async def fill(shelf: Shelf, file_id: str, *texts: str) -> None:
    chunks = [Chunk(number, text, (), 0, len(text), 5) for number, text in enumerate(texts)]
    vectors = np.stack([FakeEmbeds.vector(text) for text in texts]) if texts else np.zeros((0, 0), np.float32)
    await shelf.replace("store", Source(file_id, f"{file_id}.md", attributes={"secret": texts[0]} if texts else {}), chunks, vectors)


def place_of(shelf: Shelf) -> Place:
    return shelf._place("store")


def found(folder: Path) -> list[str]:
    """Files that hold the secret's text, its rare word, its attribute, or a piece of its vector."""
    vector = FakeEmbeds.vector(SECRET)
    spots = np.flatnonzero(vector > 1e-3)
    pieces = (SECRET.encode(), b"qwertzuiop", SECRET.encode().hex().encode(), vector.tobytes(), vector[: spots[0] + 2].tobytes())
    while True:
        with contextlib.suppress(FileNotFoundError):  # upkeep removed a file under our eyes: look again
            return [str(file) for file in folder.rglob("*") if file.is_file() and any(piece in file.read_bytes() for piece in pieces)]


@pytest.fixture
async def index(tmp_path: Path) -> AsyncIterator[Index]:
    index = Index(tmp_path, b"key", nothing, Retriever(erase_after_s=0.2))
    yield index
    await index.close()


@pytest.mark.parametrize("how", ["deleted", "replaced"])
async def test_the_bytes_of_what_was_deleted_leave_the_disk(index: Index, tmp_path: Path, how: str):
    shelf = index.of(ALICE)
    for number in range(30):
        await fill(shelf, f"file {number}", f"common words {number}", f"other words {number}")
    await fill(shelf, "secret", SECRET)
    assert found(tmp_path)
    await fill(shelf, "secret", *(["plain words"] if how == "replaced" else []))
    nearest, matching = await shelf.search("store", SECRET, FakeEmbeds.vector(SECRET), 100)
    assert SECRET not in {hit.chunk.text for hit in (*nearest, *matching)}
    await until(lambda: found(tmp_path), equals=[])
    nearest, _ = await shelf.search("store", "words", FakeEmbeds.vector("words"), 100)
    assert len(nearest) == 60 + (how == "replaced")
    assert not place_of(shelf).stale


async def test_lance_alone_would_keep_them(index: Index, tmp_path: Path):
    shelf = index.of(ALICE)
    await fill(shelf, "many", *(f"common words {number}" for number in range(30)), SECRET)
    await index.close()
    await fill(shelf, "many", *(f"common words {number}" for number in range(30)))
    table = await shelf._tables.open(place_of(shelf), place_of(shelf).current or "")
    await table.optimize()
    assert found(tmp_path)


async def test_nothing_is_rewritten_where_nothing_was_deleted(index: Index):
    shelf = index.of(ALICE)
    for number in range(3):
        await fill(shelf, f"file {number}", f"text {number}")
    await fill(shelf, "never there")
    assert not place_of(shelf).stale


async def test_writers_and_readers_go_on_while_bytes_are_removed(tmp_path: Path):
    indexes = [Index(tmp_path, b"key", nothing, Retriever(erase_after_s=0.01)) for _ in range(2)]
    shelves = [index.of(ALICE) for index in indexes]
    await fill(shelves[0], "still", *(f"still {number}" for number in range(50)))
    tables, done = set[str | None](), asyncio.Event()

    async def write(shelf: Shelf, name: str) -> None:
        for version in range(12):
            await fill(shelf, name, *(f"{name} version {version} part {part}" for part in range(3)))

    async def read(shelf: Shelf) -> None:
        while not done.is_set():
            tables.add(place_of(shelf).current)
            nearest, _ = await shelf.search("store", "", FakeEmbeds.vector("still"), 100)
            texts = [hit.chunk.text for hit in nearest]
            assert sum(text.startswith("still") for text in texts) == 50
            for name in ("a", "b"):
                versions = [text.split()[2] for text in texts if text.startswith(name)]
                assert len(versions) in (0, 3)
                assert len(set(versions)) <= 1

    reading = asyncio.gather(*(read(shelf) for shelf in shelves))
    await asyncio.gather(*(write(shelf, name) for shelf, name in zip(shelves, ("a", "b"), strict=True)))
    await until(lambda: place_of(shelves[0]).stale, equals=False)
    done.set()
    await reading
    assert len(tables) > 1
    nearest, _ = await shelves[0].search("store", "", FakeEmbeds.vector("version"), 100)
    assert {hit.chunk.text.split()[2] for hit in nearest if "version" in hit.chunk.text} == {"11"}
    for index in indexes:
        await index.close()


@pytest.mark.parametrize("step", ["add", "end"])
async def test_an_erasure_that_failed_is_begun_again_in_due_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str):
    index = Index(tmp_path, b"key", nothing, Retriever(erase_after_s=0.05))
    shelf, failures, work = index.of(ALICE), [RuntimeError("no space is left")], getattr(index.builds, step)

    async def fail_once(*arguments: object) -> None:
        if failures:
            raise failures.pop()
        await work(*arguments)

    monkeypatch.setattr(index.builds, step, fail_once)
    await fill(shelf, "file", "common words")
    await fill(shelf, "secret", SECRET)
    await fill(shelf, "secret")
    await until(lambda: found(tmp_path), equals=[])
    assert not failures
    await index.close()


async def test_what_a_process_left_to_erase_is_erased_by_the_next_that_searches(tmp_path: Path):
    first = Index(tmp_path, b"key", nothing, Retriever(erase_after_s=600)).of(ALICE)
    await fill(first, "file", "common words")
    await fill(first, "secret", SECRET)
    await fill(first, "secret")
    index = Index(tmp_path, b"key", nothing, Retriever(erase_after_s=0.05))
    await index.of(ALICE).search("store", "words", FakeEmbeds.vector("words"), 5)
    await until(lambda: found(tmp_path), equals=[])
    await index.close()


async def test_a_store_that_is_dropped_leaves_nothing(index: Index, tmp_path: Path):
    shelf = index.of(ALICE)
    await fill(shelf, "secret", SECRET)
    await shelf.drop("store")
    assert found(tmp_path) == []
    assert await shelf.search("store", SECRET, FakeEmbeds.vector(SECRET), 5) == ([], [])
    await fill(shelf, "file", "again")
    assert len((await shelf.search("store", "again", FakeEmbeds.vector("again"), 5))[0]) == 1
