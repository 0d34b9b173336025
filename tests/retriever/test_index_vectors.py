"""Vectors that are no embeddings never reach a table; nearest neighbours from an index are the nearest."""

from pathlib import Path

import numpy as np
import pytest

from deployments.core.config import Retriever
from deployments.core.errors import InvalidRequest
from deployments.core.filters import Compare
from deployments.core.types import Chunk, Principal, Source, Vectors
from deployments.retriever.index import Index, Shelf
from deployments.retriever.index_tables import index_vectors

ALICE = Principal("alice", "k1", frozenset())
DIMENSIONS = 32
WRONG = {
    "nan": np.nan,
    "inf": np.inf,
    "minus inf": -np.inf,
    "3e38": 3e38,
    "1e20": 1e20,
    "two": 2.0,
}


async def nothing(principal: Principal, store_id: str) -> bool:
    return False


def unit(*shape: int, seed: int = 0) -> Vectors:
    vectors = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def chunks(count: int) -> list[Chunk]:
    return [Chunk(n, f"text {n}", (), 0, 6, 2, {"rare": n % 500 == 7}) for n in range(count)]


@pytest.fixture
async def shelf(tmp_path: Path) -> Shelf:
    shelf = Index(tmp_path, b"key", nothing, Retriever(recall_bytes=0)).of(ALICE)
    await shelf.replace("store", Source("good"), chunks(3), unit(3, DIMENSIONS))
    return shelf


async def refused(shelf: Shelf, vectors: Vectors) -> None:
    with pytest.raises(InvalidRequest):
        await shelf.replace("store", Source("bad"), chunks(3), vectors)
    with pytest.raises(InvalidRequest):
        await shelf.replace("another store", Source("bad"), chunks(3), vectors if vectors.shape == (3, DIMENSIONS) else vectors[:2])
    await shelf.begin("store", "build", DIMENSIONS)
    with pytest.raises(InvalidRequest):
        await shelf.add("store", "build", [(Source("bad"), chunks(3), vectors)])
    nearest, _ = await shelf.search("store", "", unit(DIMENSIONS), 10)
    assert [hit.file_id for hit in nearest] == ["good"] * 3


@pytest.mark.parametrize("value", WRONG.values(), ids=list(WRONG))
async def test_a_value_that_no_embedding_has_is_refused_before_lance(shelf: Shelf, value: float):
    vectors = unit(3, DIMENSIONS)
    vectors[1, 5] = value
    await refused(shelf, vectors)
    with pytest.raises(InvalidRequest):
        await shelf.search("store", "", vectors[1], 5)


@pytest.mark.parametrize(
    "vectors", [np.zeros((3, DIMENSIONS), np.float32), unit(2, DIMENSIONS), unit(4, DIMENSIONS)], ids=["zero", "few", "many"]
)
async def test_a_vector_that_is_zero_or_not_one_per_chunk_is_refused(shelf: Shelf, vectors: Vectors):
    await refused(shelf, vectors)


async def test_a_vector_of_another_length_is_refused(shelf: Shelf):
    with pytest.raises(InvalidRequest):
        await shelf.replace("store", Source("bad"), chunks(3), unit(3, DIMENSIONS * 2))
    with pytest.raises(InvalidRequest):
        await shelf.search("store", "", unit(DIMENSIONS * 2), 5)


def spoilt(chance: np.random.Generator) -> Vectors:
    """Three vectors that are not all embeddings of this store, in one of many ways."""
    vectors = unit(3, DIMENSIONS, seed=int(chance.integers(1 << 30)))
    how, places = int(chance.integers(5)), chance.random(vectors.shape) < 0.1
    places[chance.integers(3), chance.integers(DIMENSIONS)] = True
    match how:
        case 0:
            vectors[places] = chance.choice(np.array([np.nan, np.inf, -np.inf], np.float32), places.sum())
        case 1:
            vectors[places] = chance.choice(np.array([-1, 1], np.float32), places.sum()) * np.float32(10) ** chance.uniform(
                2, 38, places.sum()
            )
        case 2:
            vectors[chance.integers(3)] = 0
        case 3:
            vectors = unit(3, int(chance.choice([1, DIMENSIONS - 1, DIMENSIONS + 1, DIMENSIONS * 64])))
        case _:
            vectors *= np.float32(chance.choice([0.0, 0.5, 1.5, -7.0]))
    return vectors


async def test_of_five_hundred_spoilt_vectors_none_is_stored(shelf: Shelf):
    chance = np.random.default_rng(24)
    for number in range(500):
        vectors = spoilt(chance)
        with np.errstate(all="ignore"), pytest.raises(InvalidRequest):
            await shelf.replace("store", Source(f"bad {number}"), chunks(3), vectors)
    place = shelf._place("store")
    rows = await (await shelf._tables.open(place, place.current or "")).to_arrow()
    assert rows["file_id"].to_pylist() == ["good"] * 3
    assert np.isfinite(np.stack(rows["vector"].to_numpy(zero_copy_only=False).tolist())).all()


async def test_the_nearest_of_an_index_are_nearly_those_of_a_scan_and_a_filter_finds_all_it_should(tmp_path: Path):
    index = Index(tmp_path, b"key", nothing, Retriever(recall_bytes=0, indexed_rows=4000))
    shelf, vectors = index.of(ALICE), unit(5000, DIMENSIONS)
    await shelf.begin("store", "build", DIMENSIONS)
    await shelf.add("store", "build", [(Source("file"), chunks(5000), vectors)])
    await shelf.end("store", "build")
    place = shelf._place("store")
    table = await shelf._tables.open(place, place.current or "")
    assert {one.name for one in await table.list_indices()} == {"words", "vectors"}
    await index_vectors(table)  # it is there: nothing happens
    found = 0
    for query in unit(20, DIMENSIONS, seed=1):
        nearest, _ = await shelf.search("store", "", query, 10)
        found += len({hit.chunk.number for hit in nearest} & set(np.argsort(-(vectors @ query))[:10].tolist()))
        rare, _ = await shelf.search("store", "", query, 30, Compare("eq", "rare", True))
        assert {hit.chunk.number for hit in rare} == set(range(7, 5000, 500))
    assert found >= 0.95 * 20 * 10
    await index.close()
