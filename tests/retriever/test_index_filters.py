"""Filters of a search: exactly the caller's own rows for which the condition holds, whatever the condition."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deployments.core.config import Retriever
from deployments.core.errors import InvalidRequest
from deployments.core.filters import Combine, Compare, Filter, Value, holds
from deployments.core.types import Chunk, Principal, Source
from deployments.retriever.index import Index, Shelf
from deployments.retriever.index_filters import MAX_CONDITIONS, MAX_DEPTH
from tests.fakes import FakeEmbeds

ALICE, BOB = Principal("alice", "k1", frozenset()), Principal("bob", "k2", frozenset())
ODD = (
    "",
    "'",
    '"',
    "x' OR true --",
    "\\",
    "\0",
    "a\0b",
    "＇ ＯＲ true",
    "é",
    "e\u0301",
    "🙂",
    "\uffff",
    "%",
    "_",
    "null",
    "NULL",
    "true",
    "1",
    "b1",
)
KEYS = ("kind", "year", "open", "o'key", 'k" OR true', "\0", "vector", "record", "file_id", "ключ", "absent")
VALUES: tuple[Value, ...] = (*ODD, "alpha", "alphabet", 0.0, -0.0, 1.0, -1.0, 1.5, 2020.0, 1e308, -1e308, 5e-324, 1e-7, True, False, 3)
FILES = 24


async def nothing(principal: Principal, store_id: str) -> bool:
    return False


def attributes_of(number: int, salt: int) -> dict[str, Value]:
    """Some attributes; which, and of what value, differs from row to row."""
    rng = np.random.default_rng([number, salt])
    chosen = rng.choice(len(KEYS) - 1, size=int(rng.integers(0, 5)), replace=False)
    return {KEYS[key]: VALUES[int(rng.integers(len(VALUES)))] for key in chosen}


class Rows:
    """The same store of two tenants, filled alike but for the attributes; with a loop to search them in."""

    def __init__(self, folder: Path):
        self.loop = asyncio.new_event_loop()
        self._index = Index(folder, b"key", nothing, Retriever())
        self.shelves = {tenant.tenant: self._index.of(tenant) for tenant in (ALICE, BOB)}
        self.attributes: dict[str, dict[str, dict[str, Value]]] = {}
        for salt, (tenant, shelf) in enumerate(self.shelves.items()):
            self.attributes[tenant] = self.loop.run_until_complete(self._fill(tenant, salt, shelf))

    async def _fill(self, tenant: str, salt: int, shelf: Shelf) -> dict[str, dict[str, Value]]:
        held: dict[str, dict[str, Value]] = {}
        for number in range(FILES):
            files, own = attributes_of(number, salt), attributes_of(number, salt + 10)
            chunks = [Chunk(0, f"{tenant} common {number}", (), 0, 1, 1), Chunk(1, f"{tenant} common own {number}", (), 0, 1, 1, own)]
            vectors = np.stack([FakeEmbeds.vector(chunk.text) for chunk in chunks])
            await shelf.replace("store", Source(f"{tenant}{number}", attributes=files), chunks, vectors)
            held |= {chunks[0].text: files, chunks[1].text: files | own}
        return held

    def close(self) -> None:
        self.loop.run_until_complete(self._index.close())
        self.loop.close()

    def search(self, tenant: str, condition: Filter) -> tuple[set[str], set[str]]:
        search = self.shelves[tenant].search("store", "common", FakeEmbeds.vector("common"), 4 * FILES, condition)
        nearest, matching = self.loop.run_until_complete(search)
        return {hit.chunk.text for hit in nearest}, {hit.chunk.text for hit in matching}

    def wanted(self, tenant: str, condition: Filter) -> set[str]:
        return {text for text, attributes in self.attributes[tenant].items() if holds(condition, attributes)}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rows]:
    rows = Rows(tmp_path_factory.mktemp("index"))
    yield rows
    rows.close()


def values() -> st.SearchStrategy[Value]:
    return st.one_of(st.sampled_from(VALUES), st.text(max_size=6), st.floats(allow_nan=False), st.booleans())


def comparisons() -> st.SearchStrategy[Compare]:
    one = st.builds(Compare, cast(Any, st.sampled_from(("eq", "ne", "gt", "gte", "lt", "lte"))), st.sampled_from(KEYS), values())
    several = st.lists(values(), max_size=5).map(tuple)
    return one | st.builds(Compare, cast(Any, st.sampled_from(("in", "nin"))), st.sampled_from(KEYS), several)


def trees() -> st.SearchStrategy[Filter]:
    combined = lambda inner: st.builds(Combine, cast(Any, st.sampled_from(("and", "or"))), st.lists(inner, max_size=4).map(tuple))  # noqa: E731
    return cast(Any, st.recursive(comparisons(), combined, max_leaves=8))


def agree(rows: Rows, tenant: str, condition: Filter) -> None:
    wanted = rows.wanted(tenant, condition)
    assert rows.search(tenant, condition) == (wanted, wanted)


SLOW = (HealthCheck.function_scoped_fixture, HealthCheck.too_slow)


@settings(max_examples=300, suppress_health_check=SLOW)
@given(tenant=st.sampled_from(("alice", "bob")), condition=trees())
def test_a_search_finds_exactly_the_own_rows_for_which_the_condition_holds(rows: Rows, tenant: str, condition: Filter):
    agree(rows, tenant, condition)


@pytest.mark.full
@pytest.mark.timeout(1800)
@settings(max_examples=10_000, suppress_health_check=SLOW)
@given(tenant=st.sampled_from(("alice", "bob")), condition=trees())
def test_ten_thousand_conditions(rows: Rows, tenant: str, condition: Filter):
    agree(rows, tenant, condition)


@pytest.mark.parametrize("op", ["eq", "ne", "gt", "gte", "lt", "lte"])
def test_every_value_is_compared_with_every_value(rows: Rows, op: Any):
    for value in VALUES:
        agree(rows, "alice", Combine("or", tuple(Compare(op, key, value) for key in KEYS)))


def test_a_list_of_a_hundred_thousand_values_is_searched_by(rows: Rows):
    many = (*VALUES, *(f"value {number}' OR true" for number in range(100_000)))
    for condition in (Compare("in", "kind", many), Compare("nin", "kind", many)):
        agree(rows, "bob", condition)


def test_a_condition_that_is_too_large_or_too_deep_is_refused(rows: Rows):
    deep: Filter = Compare("eq", "kind", "a")
    for _ in range(MAX_DEPTH):
        deep = Combine("and", (deep,))
    wide = Combine("or", (Compare("eq", "kind", "a"),) * (MAX_CONDITIONS + 1))
    for condition in (deep, wide, Combine("or", (deep, wide)), Compare("gt", "kind", tuple(map(str, range(MAX_CONDITIONS + 1))))):
        with pytest.raises(InvalidRequest):
            rows.search("alice", condition)
    agree(rows, "alice", Combine("or", (Compare("eq", "kind", "alpha"),) * MAX_CONDITIONS))


def test_half_a_character_is_equal_to_nothing_and_is_in_order_like_any_other(rows: Rows):
    for op in ("eq", "ne", "gt", "lte"):
        agree(rows, "alice", Compare(cast(Any, op), "kind", "\ud800"))
        agree(rows, "alice", Compare(cast(Any, op), "\udfff", "a\ud800b"))


async def test_a_store_has_only_so_many_attribute_names(tmp_path: Path):
    shelf = Index(tmp_path, b"key", nothing, Retriever()).of(ALICE)
    chunks, vectors = [Chunk(0, "alpha", (), 0, 5, 1)], FakeEmbeds.vector("alpha")[np.newaxis]
    await shelf.replace("store", Source("one", attributes={f"name {number}": 1.0 for number in range(256)}), chunks, vectors)
    with pytest.raises(InvalidRequest):
        await shelf.replace("store", Source("two", attributes={"one more": 1.0}), chunks, vectors)
    nearest, _ = await shelf.search("store", "alpha", vectors[0], 5, Compare("eq", "name 255", 1.0))
    assert [hit.file_id for hit in nearest] == ["one"]


async def test_writers_of_different_attributes_at_once_lose_none(tmp_path: Path):
    shelves = [Index(tmp_path, b"key", nothing, Retriever()).of(ALICE) for _ in range(2)]
    chunks, vectors = [Chunk(0, "alpha", (), 0, 5, 1)], FakeEmbeds.vector("alpha")[np.newaxis]
    writes = (shelves[n % 2].replace("store", Source(f"file {n}", attributes={f"name {n % 6}": n}), chunks, vectors) for n in range(12))
    await asyncio.gather(*writes)
    for number in range(12):
        nearest, _ = await shelves[1].search("store", "", vectors[0], 20, Compare("eq", f"name {number % 6}", number))
        assert [hit.file_id for hit in nearest] == [f"file {number}"]
        assert nearest[0].attributes == {f"name {number % 6}": number}
