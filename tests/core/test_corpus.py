"""The version of a vector store's content rises with every change of it, and with nothing else."""

import asyncio

import numpy as np
import pytest

from deployments.core.errors import NotFound
from deployments.core.store import Store, TenantStore
from deployments.core.types import Chunk

TEXT = "Some text."
CHUNKS = [Chunk(0, TEXT, (), 0, 10, 3)]
VECTORS = np.eye(1, 4, dtype=np.float32)


async def ingested(mine: TenantStore, store_id: str) -> str:
    file_id = (await mine.add_file("a.md", "assistants", TEXT.encode())).id
    await mine.add_member(store_id, file_id, {})
    await mine.complete(store_id, file_id, "", TEXT, CHUNKS, VECTORS)
    return file_id


async def test_each_change_counts(acme: TenantStore) -> None:
    store_id = (await acme.add_store("docs")).id
    seen = [await acme.corpus.version(store_id)]
    first, second = await ingested(acme, store_id), await ingested(acme, store_id)
    seen.append(await acme.corpus.version(store_id))
    for change in (
        acme.complete(store_id, first, "", TEXT, CHUNKS, VECTORS),
        acme.remove_member(store_id, first),
        acme.delete_file(second),
        acme.corpus.touch(store_id),
    ):
        await change
        seen.append(await acme.corpus.version(store_id))
    assert seen == [0, 2, 3, 4, 5, 6]


async def test_what_changes_nothing_counts_nothing(acme: TenantStore) -> None:
    store_id, elsewhere = (await acme.add_store("docs")).id, (await acme.add_store("other")).id
    file_id = await ingested(acme, store_id)
    await acme.add_file("b.md", "assistants", b"")
    with pytest.raises(NotFound):
        await acme.remove_member(store_id, "file-none")
    await acme.content(file_id)
    assert (await acme.corpus.version(store_id), await acme.corpus.version(elsewhere)) == (1, 0)


async def test_another_tenants_store_has_no_version_and_is_not_touched(acme: TenantStore, other: TenantStore) -> None:
    store_id = (await acme.add_store("docs")).id
    await ingested(acme, store_id)
    await other.corpus.touch(store_id)
    assert (await acme.corpus.version(store_id), await other.corpus.version(store_id)) == (1, 0)


async def test_files_of_the_same_stores_are_deleted_side_by_side(acme: TenantStore, store: Store) -> None:
    stores = [(await acme.add_store(f"s{n}")).id for n in range(4)]
    files = [(await acme.add_file(f"{n}.md", "assistants", b"")).id for n in range(8)]
    for place, file_id in enumerate(files):
        for store_id in stores if place % 2 else reversed(stores):
            await acme.add_member(store_id, file_id, {})
    await asyncio.gather(*(acme.delete_file(file_id) for file_id in files))
    assert [await acme.corpus.version(store_id) for store_id in stores] == [8] * 4


@pytest.mark.parametrize(
    ("stated", "half_life_s"), [("86400", 86_400), ("0.5", 0.5), ("0", None), ("-1", None), ("nan", None), ("inf", None), ("a day", None)]
)
async def test_a_store_states_its_half_life_in_its_metadata(acme: TenantStore, stated: str, half_life_s: float | None) -> None:
    store_id = (await acme.add_store("news", metadata={"headrace.half_life_s": stated})).id
    assert await acme.corpus.half_life_s(store_id) == half_life_s


async def test_another_tenants_store_has_no_half_life_to_tell(acme: TenantStore, other: TenantStore) -> None:
    store_id = (await acme.add_store("news", metadata={"headrace.half_life_s": "60"})).id
    assert await other.corpus.half_life_s(store_id) is None
    assert await acme.corpus.half_life_s("vs_unknown") is None
