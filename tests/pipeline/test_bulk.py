"""Many files at once: what ends up in SQL and in the index, and what a run that was killed has left."""

import asyncio
import warnings
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from deployments.core.config import Settings
from deployments.core.schema import migrate
from deployments.core.store import Store, TenantStore, open_store
from deployments.core.types import Principal, Vectors
from deployments.retriever.service import Retriever
from pipeline.cli.ingest import find
from pipeline.cli.sync import Document
from tests.fakes import FakeEmbeds, tenant

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray's own, when it is imported
    from pipeline.bulk import FILES, Bulk, Cut, Report, _read


class Here(Bulk):
    """Cuts in this process and embeds with the fake; notes what was embedded, and dies after so many batches."""

    embedded: list[str]
    dies_after = 1 << 30

    def _rows(self, documents: Sequence[Document], cores: int) -> Iterator[list[tuple[int, Cut, Vectors]]]:
        self.embedded = []
        for at in range(0, len(documents), FILES):
            if at // FILES == self.dies_after:
                return
            batch = list(enumerate(documents))[at : at + FILES]
            cuts = [asyncio.run(_read(str(one.file), one.path, self._settings)) for _, one in batch]
            self.embedded += [one.path for _, one in batch]
            vectors = [np.stack([FakeEmbeds.vector(one.text) for one in cut.chunks]) if cut.chunks else np.zeros((0, 64)) for cut in cuts]
            yield [(number, cut, one) for (number, _), cut, one in zip(batch, cuts, vectors, strict=True)]


class Stand:
    """A tenant with one store, the real index, and a folder to ingest."""

    def __init__(self, settings: Settings, store: Store, principal: Principal, store_id: str, folder: Path):
        self.settings, self.store, self.principal, self.store_id, self.folder = settings, store, principal, store_id, folder
        self.retriever = Retriever(settings)

    @property
    def mine(self) -> TenantStore:
        return self.store.of(self.principal)

    def write(self, **files: str) -> None:
        for name, text in files.items():
            (self.folder / f"{name}.md").write_text(text)

    def bulk(self) -> Here:
        return Here(self.settings, self.store, self.retriever, self.principal, self.store_id)

    async def run(self, bulk: Here | None = None, *, prune: bool = False) -> Report:
        return await (bulk or self.bulk()).run(find([self.folder], 1 << 20).documents, 1, lambda done, total: None, prune=prune)

    async def sound(self) -> int:
        """The number of passages; asserts that index and SQL hold the same ones."""
        found, damaged = await self.retriever.verify(self.principal, self.store_id)
        files = [filed async for page in self.mine.corpus.files(self.store_id) for filed in page]
        assert found == {(source.file_id, chunk.number) for source, chunks, _ in files for chunk in chunks}
        assert damaged == 0
        return len(found)


@pytest.fixture
async def stand(tmp_path: Path) -> AsyncIterator[Stand]:
    settings = Settings(data_dir=tmp_path / "state")
    settings.data_dir.mkdir()
    await migrate(settings.database_url)
    store = open_store(settings)
    principal = await tenant(store, "acme")
    (tmp_path / "docs").mkdir()
    stand = Stand(settings, store, principal, (await store.of(principal).add_store("docs")).id, tmp_path / "docs")
    yield stand
    await stand.retriever.close()
    await store.close()


async def test_a_folder_is_in_sql_and_in_the_index_and_a_second_run_does_nothing(stand: Stand):
    stand.write(mill="# Mill\n\nThe water turns the wheel.", race="# Race\n\nA headrace brings the water.")
    report = await stand.run()
    assert (dict(+report.counts), report.failed, report.passages) == ({"added": 2}, [], 2)
    assert await stand.sound() == 2
    assert (await stand.mine.store(stand.store_id)).counts == {"completed": 2}
    assert dict(+(await stand.run()).counts) == {"unchanged": 2}


async def test_what_changed_is_replaced_and_what_is_gone_is_pruned(stand: Stand):
    stand.write(mill="The water turns the wheel.", race="A headrace.", pond="A pond.")
    await stand.run()
    stand.write(mill="The wind turns the sails.")
    (stand.folder / "pond.md").unlink()
    bulk = stand.bulk()
    report = await stand.run(bulk, prune=True)
    assert dict(+report.counts) == {"replaced": 1, "unchanged": 1, "removed": 1}
    assert bulk.embedded == ["mill.md"]
    assert await stand.sound() == 2
    assert sorted(file.filename for file in await stand.mine.files()) == ["mill.md", "race.md"]


async def test_a_file_that_can_not_be_read_is_reported_and_the_others_go_on(stand: Stand):
    stand.write(mill="The water turns the wheel.")
    (stand.folder / "broken.pdf").write_bytes(b"%PDF-1.7 broken")
    report = await stand.run()
    assert [path for path, _ in report.failed] == ["broken.pdf"]
    assert dict(+report.counts) == {"added": 1}
    assert await stand.sound() == 1


@pytest.mark.parametrize("indexed", [False, True])
async def test_what_was_killed_between_sql_and_the_index_is_finished_without_embedding(stand: Stand, indexed: bool):
    stand.write(mill="The water turns the wheel.", race="A headrace.")
    bulk = stand.bulk()

    async def die(*_: object) -> None:
        raise KeyboardInterrupt

    bulk._mine.filing.complete = die  # type: ignore[method-assign]
    if not indexed:
        bulk._index = die  # type: ignore[method-assign,assignment]
    with pytest.raises(KeyboardInterrupt):
        await stand.run(bulk)
    assert (await stand.mine.store(stand.store_id)).counts == {"in_progress": 2}
    again = stand.bulk()
    report = await stand.run(again)
    assert dict(+report.counts) == {"resumed": 2, "unchanged": 2}
    assert not hasattr(again, "embedded")
    assert await stand.sound() == 2


async def test_a_run_that_ended_early_goes_on_where_it_was(stand: Stand):
    stand.write(**{f"page{number}": f"Page {number} of the mill." for number in range(FILES + 8)})
    first, second = stand.bulk(), stand.bulk()
    first.dies_after = 1
    await stand.run(first)
    report = await stand.run(second)
    assert dict(+report.counts) == {"added": 8, "unchanged": FILES}
    assert not set(first.embedded) & set(second.embedded)
    assert await stand.sound() == FILES + 8
