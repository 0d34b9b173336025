"""What the worker does with a file, and what is left when it dies half way."""

import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select
from sqlalchemy.orm import undefer

from deployments.core.config import Embedder, Retriever, Settings
from deployments.core.errors import InvalidRequest, NotFound
from deployments.core.filters import Compare
from deployments.core.jobs import INGEST, Job
from deployments.core.members import Placing
from deployments.core.store import Store, TenantStore
from deployments.core.tables import FileRow, PassageRow
from deployments.core.types import Principal, Query, Vectors
from deployments.worker.work import Rejected
from pipeline.jobs import Ingest
from tests.fakes import FakeEmbeds, FakeRetrieves, database, means, tenant

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

    async def embed(self, texts: Sequence[str], caller: Principal | None = None) -> Vectors:
        vectors = await super().embed(texts)
        if len(self.calls) == self.dies_at:
            raise Dies
        return vectors


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[FragileStore]:
    async with database(tmp_path) as plain:
        store = FragileStore(str(plain.engine.url), plain.vault, plain.clock)
        yield store
        await store.close()


@pytest.fixture
def ingest() -> Ingest:
    return Ingest(Settings(), FragileEmbeds(), FakeRetrieves())


async def waiting(
    store: Store, content: bytes = PAGE, filename: str = "docs/wheel.md", name: str = "acme", whose: Principal | None = None
) -> Job:
    mine = store.of(whose or await tenant(store, name))
    store_id = (await mine.add_store("docs")).id
    file_id = (await mine.add_file(filename, "assistants", content)).id
    await mine.add_member(store_id, file_id, {})
    job = await store.jobs.lease({INGEST: 60})
    assert job
    return job


def at(job: Job) -> tuple[str, str]:
    store_id, _, file_id = job.subject.partition("/")
    return store_id, file_id


async def again(store: Store, job: Job) -> Job:
    """The same file, put into its store once more."""
    await store.of(job.principal).add_member(*at(job), {})
    leased = await store.jobs.lease({INGEST: 60})
    assert leased
    return leased


async def found(ingest: Ingest, work: Job, question: str = "what turns the wheel?") -> list[str]:
    vector = (await ingest.embeds.embed([question]))[0]
    passages = await ingest.retrieves.search(Query(work.principal, at(work)[0], question, vector))
    return [passage.chunk.text for passage in passages]


def test_the_worker_loads_no_model_runtime() -> None:
    script = "import sys, pipeline.jobs; assert not {'onnxruntime', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


async def test_a_file_can_be_searched_and_shown_when_it_is_completed(store: FragileStore, ingest: Ingest) -> None:
    work = await waiting(store)
    await ingest.run(means(store), work)
    mine = store.of(work.principal)
    assert (await mine.member(*at(work))).status == "completed"
    assert (await mine.file(at(work)[1])).title == "The wheel"
    text, passages = await mine.text(at(work)[1]), await mine.passages(at(work)[1])
    assert len(passages) > 2
    assert all(text[passage.start : passage.end] == passage.text for passage in passages)
    assert "Water turns the wheel." in (await found(ingest, work))[0]


async def test_doing_it_twice_is_doing_it_once(store: FragileStore, ingest: Ingest) -> None:
    work = await waiting(store)
    await ingest.run(means(store), work)
    before = await store.of(work.principal).passages(at(work)[1]), await found(ingest, work)
    await ingest.run(means(store), await again(store, work))
    assert (await store.of(work.principal).passages(at(work)[1]), await found(ingest, work)) == before


async def test_the_same_bytes_are_embedded_once(store: FragileStore, ingest: Ingest) -> None:
    works = [await waiting(store)]
    works += [await waiting(store, whose=works[0].principal) for _ in range(2)]
    await ingest.run(means(store), works[0])
    assert isinstance(ingest.embeds, FakeEmbeds)
    calls = len(ingest.embeds.calls)
    for work in (*works[1:], await again(store, works[0])):
        await ingest.run(means(store), work)
    assert len(ingest.embeds.calls) == calls
    mine = store.of(works[0].principal)
    kept = [await mine.passages(at(work)[1]) for work in works]
    assert kept[0] == kept[1] == kept[2] != []
    for work in works:
        assert (await mine.member(*at(work))).status == "completed"
        assert (await mine.file(at(work)[1])).title == "The wheel"
        assert len(await found(ingest, work)) > 0


@pytest.mark.parametrize(
    ("filename", "name", "chunk_tokens"),
    [("docs/other.txt", "", 200), ("docs/wheel.md", "other", 200), ("docs/wheel.md", "", 100)],
)
async def test_what_differs_is_embedded_anew(store: FragileStore, ingest: Ingest, filename: str, name: str, chunk_tokens: int) -> None:
    first = await waiting(store)
    await ingest.run(means(store), first)
    assert isinstance(ingest.embeds, FakeEmbeds)
    calls = len(ingest.embeds.calls)
    settings = Settings(retriever=Retriever(chunk_tokens=chunk_tokens))
    second = await waiting(store, filename=filename, name=name, whose=None if name else first.principal)
    await Ingest(settings, ingest.embeds, ingest.retrieves).run(means(store), second)
    assert len(ingest.embeds.calls) > calls


async def test_vectors_of_another_precision_are_not_taken_over(store: FragileStore, ingest: Ingest) -> None:
    first = await waiting(store)
    await ingest.run(means(store), first)
    assert isinstance(ingest.embeds, FakeEmbeds)
    calls = len(ingest.embeds.calls)
    settings = Settings(embedder=Embedder(precision="fp32"))
    await Ingest(settings, ingest.embeds, ingest.retrieves).run(means(store), await waiting(store, whose=first.principal))
    assert len(ingest.embeds.calls) > calls


async def test_fields_of_records_can_be_filtered_by_and_are_kept(store: FragileStore, ingest: Ingest) -> None:
    work = await waiting(store, b"text,kind,spokes\nThe wheel turns.,water,8\nThe wheel stops.,wind,4\n", "parts.csv")
    await ingest.run(means(store), work)
    vector = (await ingest.embeds.embed(["the wheel"]))[0]
    for condition, expected in ((Compare("gt", "spokes", 5), ["water"]), (Compare("ne", "kind", "water"), ["wind"])):
        passages = await ingest.retrieves.search(Query(work.principal, at(work)[0], "the wheel", vector, filters=condition))
        assert [passage.attributes["kind"] for passage in passages] == expected
    kept = await store.of(work.principal).passages(at(work)[1])
    assert [one.attributes for one in kept] == [
        {"text": "The wheel turns.", "kind": "water", "spokes": 8},
        {"text": "The wheel stops.", "kind": "wind", "spokes": 4},
    ]


async def test_a_death_before_the_index_changed_leaves_nothing(store: FragileStore) -> None:
    embeds = FragileEmbeds()
    ingest = Ingest(Settings(), embeds, FakeRetrieves())
    work = await waiting(store, b"# Long\n\n" + b"\n\n".join(b"## Part %d\n\n" % n + b"Water turns the wheel. " * 30 for n in range(90)))
    embeds.dies_at = 2
    with pytest.raises(Dies):
        await ingest.run(means(store), work)
    assert await found(ingest, work) == []
    assert (await store.of(work.principal).member(*at(work))).status == "in_progress"
    await ingest.run(means(store), work)
    assert await found(ingest, work)


async def test_a_death_between_index_and_completion_is_repaired_by_the_next_attempt(store: FragileStore, ingest: Ingest) -> None:
    work = await waiting(store)
    store.broken = True
    with pytest.raises(Dies):
        await ingest.run(means(store), work)
    whole = await found(ingest, work)
    assert (await store.of(work.principal).member(*at(work))).status == "in_progress"
    store.broken = False
    await ingest.run(means(store), work)
    assert await found(ingest, work) == whole
    assert (await store.of(work.principal).member(*at(work))).status == "completed"


async def test_undoing_takes_the_file_out_of_the_index(store: FragileStore, ingest: Ingest) -> None:
    work = await waiting(store)
    await ingest.run(means(store), work)
    work = await again(store, work)
    await ingest.give_up(means(store), work, "server_error", "no")
    assert await found(ingest, work) == []
    assert (await store.of(work.principal).member(*at(work))).status == "failed"


@pytest.mark.parametrize(
    ("content", "filename", "code"),
    [
        (b"MZ\x00\x01", "a.exe", "unsupported_file"),
        (b"text\x00binary", "a.md", "unsupported_file"),
        (b"", "a.md", "invalid_file"),
        (b"# only a heading", "a.md", "invalid_file"),
        (b"caf\xe9 is not utf-8", "a.txt", "invalid_file"),
        (b"%PDF-1.4 broken", "a.pdf", "invalid_file"),
        (b'{"a": ', "a.jsonl", "invalid_file"),
    ],
)
async def test_what_can_not_be_read_is_rejected_with_its_reason(
    store: FragileStore, ingest: Ingest, content: bytes, filename: str, code: str
) -> None:
    work = await waiting(store, content, filename)
    with pytest.raises(Rejected) as error:
        await ingest.run(means(store), work)
    assert error.value.code == code
    assert str(error.value)


class FullIndex(FakeRetrieves):
    """An index that has no room for a file."""

    async def replace(self, *_: object) -> None:
        raise InvalidRequest("more than 256 names of attributes in one store")


async def test_what_the_index_can_not_take_is_rejected_with_its_reason(store: FragileStore) -> None:
    with pytest.raises(Rejected, match="more than 256 names"):
        await Ingest(Settings(), FakeEmbeds(), FullIndex()).run(means(store), await waiting(store))


async def test_a_deleted_file_is_not_found(store: FragileStore, ingest: Ingest) -> None:
    work = await waiting(store)
    await store.of(work.principal).delete_file(at(work)[1])
    with pytest.raises(NotFound):
        await ingest.run(means(store), work)


async def test_a_tenant_finds_only_its_own(store: FragileStore, ingest: Ingest) -> None:
    work, other = await waiting(store), await waiting(store, name="other")
    await ingest.run(means(store), work)
    assert await found(ingest, work)
    assert await found(ingest, other) == []
    vector = (await ingest.embeds.embed(["wheel"]))[0]
    assert await ingest.retrieves.search(Query(other.principal, at(work)[0], "wheel", vector)) == ()


async def test_the_vectors_kept_are_those_of_the_index(store: FragileStore, ingest: Ingest) -> None:
    work = await waiting(store)
    await ingest.run(means(store), work)
    async with store.session() as session:
        rows = await session.scalars(select(PassageRow).options(undefer(PassageRow.vector)).order_by(PassageRow.number))
        sealed = [(row.vector, f"{row.store_id}/{row.file_id}/{row.number}") for row in rows]
        file = await session.get(FileRow, at(work)[1])
        assert file
        lock = (await store.lock(session, work.tenant)).of(file.data_key, "files", file.id)
    kept = np.stack([np.frombuffer(lock.open(blob, "passages", place, "vector"), "<f4") for blob, place in sealed])
    assert isinstance(ingest.retrieves, FakeRetrieves)
    indexed = ingest.retrieves.files[(work.tenant, *at(work))]
    assert np.array_equal(kept, np.stack([vector for *_, vector in indexed]))


async def test_what_an_attempt_left_of_a_file_that_was_called_off_is_taken_back(store: FragileStore, ingest: Ingest) -> None:
    mine = store.of(await tenant(store, "acme"))
    store_id, file_id = (await mine.add_store("docs")).id, (await mine.add_file("wheel.md", "assistants", PAGE)).id
    batch = await mine.batches.add(store_id, {file_id: Placing()})
    work = await store.jobs.lease({INGEST: 60})
    assert work
    store.broken = True
    with pytest.raises(Dies):
        await ingest.run(means(store), work)
    assert await found(ingest, work)
    await mine.batches.cancel(store_id, batch.id)
    await ingest.lost(means(store), work)
    assert await found(ingest, work) == []


async def test_passages_are_as_long_as_was_asked_for(store: FragileStore, ingest: Ingest) -> None:
    counts = []
    for name, tokens in (("short", 100), ("long", None)):
        work = await waiting(store, name=name)
        await store.of(work.principal).add_member(*at(work), {}, tokens)
        job = await store.jobs.lease({INGEST: 60})
        assert job
        await ingest.run(means(store), job)
        passages = await store.of(work.principal).passages(at(work)[1])
        assert max(passage.tokens for passage in passages) <= (tokens or Settings().retriever.chunk_tokens)
        counts.append(len(passages))
    assert counts[0] > counts[1]
