"""Results kept from one search to the next: for the same question of the same tenant about the same content, and nothing else."""

from pathlib import Path

import numpy as np
import pytest

from deployments.core.config import Retriever
from deployments.core.filters import Compare
from deployments.core.types import Chunk, Principal, Source
from deployments.retriever.index import Index, Shelf
from deployments.retriever.recall import HIT_BYTES, STEPS, Recall, State, asked
from deployments.retriever.search import Hit
from tests.fakes import FakeEmbeds

ALICE, BOB = Principal("alice", "k1", frozenset()), Principal("bob", "k2", frozenset())


async def nothing(principal: Principal, store_id: str) -> bool:
    return False


def opened(folder: Path) -> Index:
    return Index(folder, b"key", nothing, Retriever())


async def fill(shelf: Shelf, file_id: str, text: str, store_id: str = "store") -> None:
    source = Source(file_id, attributes={"name": file_id})
    await shelf.replace(store_id, source, [Chunk(0, text, (), 0, len(text), 3)], FakeEmbeds.vector(text)[np.newaxis])


async def find(shelf: Shelf, text: str = "alpha", **options: object) -> list[str]:
    words = {"store_id": "store", "text": text, "vector": FakeEmbeds.vector(text), "limit": 5} | options
    nearest, _ = await shelf.search(**words)  # type: ignore[arg-type]
    return sorted(hit.chunk.text for hit in nearest)


async def test_the_same_question_is_answered_from_memory(tmp_path: Path):
    index = opened(tmp_path)
    await fill(index.of(ALICE), "one", "alpha one")
    for _ in range(3):
        assert await find(index.of(ALICE)) == ["alpha one"]
    noise = FakeEmbeds.vector("alpha") + np.float32(1e-6)
    assert await find(index.of(ALICE), vector=noise) == ["alpha one"]
    assert (index.recall.hits, index.recall.misses) == (3, 1)


async def test_a_question_that_differs_in_anything_is_asked_anew(tmp_path: Path):
    index = opened(tmp_path)
    shelf = index.of(ALICE)
    for name in ("one", "two"):
        await fill(shelf, name, f"alpha {name}")
        await fill(shelf, name, f"beta {name}", "other")
    for condition in (None, Compare("eq", "name", "one"), Compare("eq", "name", "two"), Compare("ne", "name", "two")):
        wanted = [
            f"alpha {name}"
            for name in ("one", "two")
            if condition is None or (name == "one") == (condition != Compare("eq", "name", "two"))
        ]
        assert await find(shelf, condition=condition) == wanted
    assert len(await find(shelf, limit=1)) == 1
    assert await find(shelf, store_id="other") == ["beta one", "beta two"]
    await find(shelf, text="alpha two")
    await find(shelf, vector=FakeEmbeds.vector("two"))
    assert index.recall.hits == 0


async def test_a_write_by_any_replica_is_seen_at_once(tmp_path: Path):
    indexes = [opened(tmp_path) for _ in range(2)]
    shelves = [index.of(ALICE) for index in indexes]
    expected: list[str] = []
    for number in range(6):
        await fill(shelves[number % 2], f"file {number}", f"alpha {number}")
        expected = [*expected, f"alpha {number}"][-5:] if number < 5 else expected
        if number < 5:
            for _ in range(2):
                assert [await find(shelf) for shelf in shelves] == [expected, expected]
    for number in range(6):
        await shelves[0].replace("store", Source(f"file {number}"), (), np.zeros((0, 0), np.float32))
        assert not {f"alpha {one}" for one in range(number + 1)} & set(await find(shelves[1]))
    assert all(index.recall.hits for index in indexes)


async def test_no_tenant_is_answered_with_what_another_asked(tmp_path: Path):
    index = opened(tmp_path)
    await fill(index.of(ALICE), "one", "alpha secret")
    await fill(index.of(BOB), "one", "alpha mine")
    for _ in range(2):
        assert await find(index.of(ALICE)) == ["alpha secret"]
        assert await find(index.of(BOB)) == ["alpha mine"]
    assert index.recall.hits == 2


def results(length: int) -> tuple[list[Hit], list[Hit]]:
    return [Hit("file", "name", "title", Chunk(0, "x" * length, (), 0, length, 1), 0.5)], []


def test_memory_is_bounded_and_the_oldest_goes_first():
    size = HIT_BYTES + 400
    recall, state = Recall(max_bytes=10 * size), State("table", 1)
    for number in range(25):
        recall.get(f"store {number % 3}", state, b"%d" % number)
        recall.put(f"store {number % 3}", state, b"%d" % number, results(100))
        assert recall.size_bytes <= 10 * size
    kept = [number for number in range(25) if recall.get(f"store {number % 3}", state, b"%d" % number)]
    assert kept == list(range(15, 25))
    recall.put("store 0", state, b"large", results(5000))
    assert recall.get("store 0", state, b"large") is None


def test_what_a_store_held_before_is_forgotten_with_its_memory():
    recall = Recall(max_bytes=1 << 20)
    for version in range(5):
        state = State("table", version)
        assert recall.get("store", state, b"q") is None
        recall.put("store", state, b"q", results(10))
        assert recall.get("store", state, b"q")
    assert recall.size_bytes == HIT_BYTES + 40
    assert recall.get("store", State("rebuilt", 4), b"q") is None
    assert recall.size_bytes == 0


def test_a_search_that_began_before_a_write_is_not_kept_for_after_it():
    recall, old, new = Recall(max_bytes=1 << 20), State("table", 1), State("table", 2)
    recall.get("store", old, b"q")
    recall.get("store", new, b"other")
    recall.put("store", new, b"other", results(10))
    recall.put("store", old, b"q", results(10))
    assert recall.get("store", new, b"q") is None


@pytest.mark.parametrize("step", [1, -1])
def test_vectors_a_step_apart_are_different_questions(step: int):
    vector = FakeEmbeds.vector("alpha")
    other = vector.copy()
    other[0] += step * 1.5 / STEPS
    assert asked("q", vector, 5, "") != asked("q", other, 5, "")
    assert asked("q", vector, 5, "") == asked("q", vector.copy(), 5, "")
    assert len({asked("q", vector, 5, ""), asked("", vector, 5, "q"), asked("q", vector, 6, ""), asked("q", vector, 5, "x")}) == 4
