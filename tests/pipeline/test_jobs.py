"""What the worker does with a file, and what is left when it dies half way."""

import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select
from sqlalchemy.orm import undefer

from deployments.core.config import Settings
from deployments.core.errors import NotFound
from deployments.core.store import Store, TenantStore, Work
from deployments.core.tables import PassageRow
from deployments.core.types import Query, Vectors
from deployments.worker.work import Rejected
from pipeline.jobs import Ingest
from tests.fakes import FakeEmbeds, FakeRetrieves, database, tenant

PAGE = b"# The wheel\n\nWater turns the wheel.\n\n## The race\n\n" + b"The race brings water to the wheel. " * 60


class Dies(Exception):
    """The process ends here."""


class FragileStore(Store):
    """A store whose next completion is never written."""

    broken = False

    def of(self, principal: object) -> TenantStore:
        mine = super().of(principal)  # type: ignore[arg-type]
        if self.broken:

            async def complete(*_: object) -> None:
                raise Dies

            mine.complete = complete  # type: ignore[method-assign]
        return mine


class FragileEmbeds(FakeEmbeds):
    """Embeds that die at the nth call."""

    dies_at = 0

    async def embed(self, texts: Sequence[str]) -> Vectors:
        vectors = await super().embed(texts)
        if len(self.calls) == self.dies_at:
            raise Dies
        return vectors


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[FragileStore]:
    async with database(tmp_path) as plain:
        store = FragileStore(str(plain.engine.url), plain.clock)
        yield store
        await store.close()


@pytest.fixture
def ingest() -> Ingest:
    return Ingest(Settings(), FragileEmbeds(), FakeRetrieves())


async def waiting(store: Store, content: bytes = PAGE, filename: str = "docs/wheel.md", name: str = "acme") -> Work:
    mine = store.of(await tenant(store, name))
    store_id = (await mine.add_store("docs")).id
    file_id = (await mine.add_file(filename, "assistants", content)).id
    await mine.add_member(store_id, file_id, {})
    return Work(name, store_id, file_id, 1)


async def found(ingest: Ingest, work: Work, question: str = "what turns the wheel?") -> list[str]:
    vector = (await ingest.embeds.embed([question]))[0]
    passages = await ingest.retrieves.search(Query(work.principal, work.store_id, question, vector))
    return [passage.chunk.text for passage in passages]


def test_the_worker_loads_no_model_runtime() -> None:
    script = "import sys, pipeline.jobs; assert not {'onnxruntime', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


async def test_a_file_can_be_searched_and_shown_when_it_is_completed(store: FragileStore, ingest: Ingest) -> None:
    work = await waiting(store)
    await ingest.run(store, work)
    mine = store.of(work.principal)
    assert (await mine.member(work.store_id, work.file_id)).status == "completed"
    assert (await mine.file(work.file_id)).title == "The wheel"
    text, passages = await mine.text(work.file_id), await mine.passages(work.file_id)
    assert len(passages) > 2
    assert all(text[passage.start : passage.end] == passage.text for passage in passages)
    assert "Water turns the wheel." in (await found(ingest, work))[0]


async def test_doing_it_twice_is_doing_it_once(store: FragileStore, ingest: Ingest) -> None:
    work = await waiting(store)
    await ingest.run(store, work)
    before = await store.of(work.principal).passages(work.file_id), await found(ingest, work)
    await ingest.run(store, work)
    assert (await store.of(work.principal).passages(work.file_id), await found(ingest, work)) == before


async def test_a_death_before_the_index_changed_leaves_nothing(store: FragileStore) -> None:
    embeds = FragileEmbeds()
    ingest = Ingest(Settings(), embeds, FakeRetrieves())
    work = await waiting(store, b"# Long\n\n" + b"\n\n".join(b"## Part %d\n\n" % n + b"Water turns the wheel. " * 30 for n in range(90)))
    embeds.dies_at = 2
    with pytest.raises(Dies):
        await ingest.run(store, work)
    assert await found(ingest, work) == []
    assert (await store.of(work.principal).member(work.store_id, work.file_id)).status == "in_progress"
    await ingest.run(store, work)
    assert await found(ingest, work)


async def test_a_death_between_index_and_completion_is_repaired_by_the_next_attempt(store: FragileStore, ingest: Ingest) -> None:
    work = await waiting(store)
    store.broken = True
    with pytest.raises(Dies):
        await ingest.run(store, work)
    whole = await found(ingest, work)
    assert (await store.of(work.principal).member(work.store_id, work.file_id)).status == "in_progress"
    store.broken = False
    await ingest.run(store, work)
    assert await found(ingest, work) == whole
    assert (await store.of(work.principal).member(work.store_id, work.file_id)).status == "completed"


async def test_undoing_takes_the_file_out_of_the_index(store: FragileStore, ingest: Ingest) -> None:
    work = await waiting(store)
    await ingest.run(store, work)
    await ingest.undo(store, work)
    assert await found(ingest, work) == []


@pytest.mark.parametrize(
    ("content", "filename", "code"),
    [
        (b"MZ\x00\x01", "a.exe", "unsupported_file"),
        (b"text\x00binary", "a.md", "unsupported_file"),
        (b"", "a.md", "invalid_file"),
        (b"# only a heading", "a.md", "invalid_file"),
        (b"caf\xe9 is not utf-8", "a.txt", "invalid_file"),
    ],
)
async def test_what_can_not_be_read_is_rejected_with_its_reason(
    store: FragileStore, ingest: Ingest, content: bytes, filename: str, code: str
) -> None:
    work = await waiting(store, content, filename)
    with pytest.raises(Rejected) as error:
        await ingest.run(store, work)
    assert error.value.code == code
    assert str(error.value)


async def test_a_deleted_file_is_not_found(store: FragileStore, ingest: Ingest) -> None:
    work = await waiting(store)
    await store.of(work.principal).delete_file(work.file_id)
    with pytest.raises(NotFound):
        await ingest.run(store, work)


async def test_a_tenant_finds_only_its_own(store: FragileStore, ingest: Ingest) -> None:
    work, other = await waiting(store), await waiting(store, name="other")
    await ingest.run(store, work)
    assert await found(ingest, work)
    assert await found(ingest, other) == []
    vector = (await ingest.embeds.embed(["wheel"]))[0]
    assert await ingest.retrieves.search(Query(other.principal, work.store_id, "wheel", vector)) == ()


async def test_the_vectors_kept_are_those_of_the_index(store: FragileStore, ingest: Ingest) -> None:
    work = await waiting(store)
    await ingest.run(store, work)
    async with store.session() as session:
        rows = await session.scalars(select(PassageRow).options(undefer(PassageRow.vector)).order_by(PassageRow.number))
        kept = np.stack([np.frombuffer(row.vector, "<f4") for row in rows])
    assert isinstance(ingest.retrieves, FakeRetrieves)
    indexed = ingest.retrieves.files[work.tenant, work.store_id, work.file_id]
    assert np.array_equal(kept, np.stack([vector for *_, vector in indexed]))
