"""Files that were read and embedded elsewhere, kept many at a time."""

import numpy as np
import pytest

from deployments.core.errors import NotFound
from deployments.core.filing import Whole
from deployments.core.ingested import Made
from deployments.core.store import TenantStore
from deployments.core.types import Chunk
from tests.fakes import FakeEmbeds


def whole(name: str, *texts: str) -> Whole:
    text = "".join(texts)
    starts = np.cumsum([0, *map(len, texts)])
    chunks = [Chunk(number, one, ("Title",), int(starts[number]), int(starts[number + 1]), 1) for number, one in enumerate(texts)]
    made = Made("Title", text, chunks, np.stack([FakeEmbeds.vector(one) for one in texts]))
    return Whole(name, text.encode(), {"path": name}, made, f"recipe of {name}")


async def test_files_are_kept_with_their_passages_and_completed_after_the_index(acme: TenantStore):
    store_id = (await acme.add_store("mill")).id
    wholes = [whole("a.md", "water ", "wheel"), whole("b.md", "headrace")]
    sources = await acme.filing.put(store_id, wholes)
    assert [(source.filename, source.attributes) for source in sources] == [("a.md", {"path": "a.md"}), ("b.md", {"path": "b.md"})]
    assert [one.file_id for one in await acme.filing.unfinished(store_id)] == sorted(source.file_id for source in sources)
    for source, one in zip(sources, wholes, strict=True):
        chunks, vectors = await acme.filed(store_id, source.file_id)
        assert list(chunks) == list(one.made.chunks)
        np.testing.assert_array_equal(vectors, one.made.vectors)
        assert await acme.content(source.file_id) == one.content
        assert (await acme.member(store_id, source.file_id)).status == "in_progress"
    version = await acme.corpus.version(store_id)
    await acme.filing.complete(store_id, [source.file_id for source in sources])
    assert {(await acme.member(store_id, source.file_id)).status for source in sources} == {"completed"}
    assert await acme.filing.unfinished(store_id) == []
    assert await acme.corpus.version(store_id) > version


async def test_the_same_recipe_is_taken_over_by_another_ingestion(acme: TenantStore):
    store_id = (await acme.add_store("mill")).id
    [source] = await acme.filing.put(store_id, [whole("a.md", "water")])
    await acme.filing.complete(store_id, [source.file_id])
    made = await acme.ingested.take("recipe of a.md")
    assert made is not None
    assert [one.text for one in made.chunks] == ["water"]


async def test_a_file_that_waits_for_a_worker_is_not_unfinished(acme: TenantStore):
    store_id = (await acme.add_store("mill")).id
    file = await acme.add_file("a.md", "assistants", b"water")
    await acme.add_member(store_id, file.id, {})
    assert await acme.filing.unfinished(store_id) == []


async def test_nothing_is_put_into_the_store_of_another_tenant(acme: TenantStore, other: TenantStore):
    store_id = (await other.add_store("mill")).id
    with pytest.raises(NotFound):
        await acme.filing.put(store_id, [whole("a.md", "water")])
    assert await acme.files() == []
    [source] = await other.filing.put(store_id, [whole("a.md", "water")])
    await acme.filing.complete(store_id, [source.file_id])
    assert await acme.filing.unfinished(store_id) == []
    assert [one.file_id for one in await other.filing.unfinished(store_id)] == [source.file_id]
