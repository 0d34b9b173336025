"""A table that is not as it was written: nothing wrong is served, and it is built again from SQL."""

import asyncio
import random
import shutil
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from pydantic import SecretStr

from deployments.core.config import Retriever as Section
from deployments.core.config import Settings
from deployments.core.corpus import REBUILD
from deployments.core.errors import Conflict, Overloaded
from deployments.core.store import Store
from deployments.core.types import Chunk, Principal, Source, Vectors
from deployments.retriever.service import Retriever
from pipeline.rebuild import Rebuild, rebuild
from tests.fakes import ROOT, FakeEmbeds, database, means, tenant

WORDS = "wheel water race mill stone grain flour river weir sluice gear shaft bucket paddle dam pond".split()
QUESTIONS = [f"{word} {other}" for word, other in pairwise(WORDS)]
FILES = 30
Damage = Callable[[Path, random.Random], None]


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def manifest(folder: Path, rng: random.Random) -> None:
    for one in folder.rglob("*.manifest"):
        truncate(one)


def data(folder: Path, rng: random.Random) -> None:
    truncate(rng.choice(sorted(folder.glob("*.lance/data/*.lance"))))


def missing(folder: Path, rng: random.Random) -> None:
    rng.choice(sorted(folder.glob("*.lance/data/*.lance"))).unlink()


def flips(folder: Path, rng: random.Random) -> None:
    file = rng.choice(sorted(folder.glob("*.lance/data/*.lance")))
    content = bytearray(file.read_bytes())
    for place in rng.sample(range(len(content)), 64):
        content[place] ^= rng.randrange(1, 256)
    file.write_bytes(content)


def gone(folder: Path, rng: random.Random) -> None:
    (folder / "at").unlink()


class Mill:
    """A retriever with a database that holds what it holds."""

    def __init__(self, folder: Path, store: Store, principal: Principal):
        self.settings = Settings(data_dir=folder, root_key=SecretStr(ROOT.hex()), retriever=Section(recall_bytes=0))
        self.store, self.principal, self.store_id = store, principal, ""
        self.retriever = Retriever(self.settings)

    async def fill(self) -> None:
        mine = self.store.of(self.principal)
        self.store_id = (await mine.add_store("docs")).id
        for number in range(FILES):
            rng = random.Random(number)
            texts = [f"{' '.join(rng.choices(WORDS, k=12))} file{number} part{part}" for part in range(4)]
            await self.ingest(f"{number}.md", texts)

    async def ingest(self, filename: str, texts: list[str]) -> str:
        mine, text = self.store.of(self.principal), "\n".join(texts)
        starts = [text.index(one) for one in texts]
        chunks = [Chunk(n, t, ("Top",), s, s + len(t), 12) for n, (t, s) in enumerate(zip(texts, starts, strict=True))]
        file_id = (await mine.add_file(filename, "assistants", text.encode())).id
        member = await mine.add_member(self.store_id, file_id, {"half": filename < "2"})
        source = Source(file_id, filename, "Title", member.attributes, member.created_at)
        await self.retriever.replace(self.principal, self.store_id, source, chunks, self.vectors(texts))
        await mine.complete(self.store_id, file_id, "Title", text, chunks, self.vectors(texts))
        return file_id

    def vectors(self, texts: list[str]) -> Vectors:
        return np.stack([FakeEmbeds.vector(text) for text in texts])

    async def ask(self, text: str) -> tuple[list[tuple[str, float]], set[str]]:
        """Everything that is near, with its cosine, and everything that matches; passages just as near come in any order."""
        shelf = self.retriever._index.of(self.principal)
        nearest, matching = await shelf.search(self.store_id, text, FakeEmbeds.vector(text), 5 * FILES)
        return sorted((hit.chunk.text, round(hit.similarity, 4)) for hit in nearest), {hit.chunk.text for hit in matching}

    async def restart(self) -> None:
        await self.retriever.close()
        self.retriever = Retriever(self.settings)

    async def repair(self) -> bool:
        """Do the job, if there is one."""
        job = await self.store.jobs.lease({REBUILD: 60})
        if job:
            await Rebuild(self.settings, self.retriever).run(means(self.store), job)
        return job is not None

    @property
    def folder(self) -> Path:
        (folder,) = self.settings.index_dir.glob("*/*")
        return folder


@pytest.fixture
async def mill(tmp_path: Path) -> AsyncIterator[Mill]:
    async with database(tmp_path) as store:
        mill = Mill(tmp_path, store, await tenant(store, "acme"))
        await mill.fill()
        yield mill
        await mill.retriever.close()


async def survives(mill: Mill, damage: Damage, rng: random.Random) -> None:
    before = {question: await mill.ask(question) for question in QUESTIONS}
    await mill.restart()
    damage(mill.folder, rng)
    for question in QUESTIONS:
        try:
            nearest, matching = await asyncio.wait_for(mill.ask(question), 5)
        except Overloaded:
            break  # it waited, and said when to come again
        assert set(nearest) <= set(before[question][0])
        assert matching <= before[question][1]
    whole, bad = await verified(mill)
    if bad or len(whole) != 4 * FILES:
        await mill.store.of(mill.principal).corpus.repair(mill.store_id)  # which a search asks for as soon as it comes upon the damage
        assert await mill.repair()
    assert {question: await mill.ask(question) for question in QUESTIONS} == before
    whole, bad = await mill.retriever.verify(mill.principal, mill.store_id)
    assert (len(whole), bad) == (4 * FILES, 0)


async def verified(mill: Mill) -> tuple[set[tuple[str, int]], int]:
    try:
        return await mill.retriever.verify(mill.principal, mill.store_id)
    except (RuntimeError, OSError, ValueError):
        return set(), 1


@pytest.mark.parametrize("damage", [manifest, data, missing, flips, gone], ids=lambda damage: damage.__name__)
async def test_nothing_wrong_is_served_and_the_table_is_as_before_once_it_is_rebuilt(mill: Mill, damage: Damage):
    await survives(mill, damage, random.Random(1))


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("damage", [manifest, data, missing, flips, gone], ids=lambda damage: damage.__name__)
async def test_fifty_damages(mill: Mill, damage: Damage, seed: int):
    await survives(mill, damage, random.Random(seed))


async def test_a_row_of_another_key_is_not_served_and_the_store_is_reported_once(mill: Mill):
    await mill.restart()
    mill.retriever._index._key = b"another"
    for _ in range(3):
        with pytest.raises(Overloaded):
            await mill.ask("wheel water")
    assert await mill.repair()
    assert not await mill.repair()
    nearest, matching = await mill.ask("wheel water")
    assert len(nearest) == 4 * FILES
    assert matching


async def test_a_store_that_never_had_a_passage_needs_no_table(mill: Mill):
    mill.store_id = (await mill.store.of(mill.principal).add_store("empty")).id
    assert await mill.ask("wheel") == ([], set())
    assert not await mill.repair()


async def test_what_changes_during_a_rebuild_is_in_the_new_table(mill: Mill):
    mine, shelf = mill.store.of(mill.principal), mill.retriever._index.of(mill.principal)
    files = [filed async for page in mine.corpus.files(mill.store_id) for filed in page]
    await mill.retriever.begin(mill.principal, mill.store_id, "one", files[0][2].shape[1])
    await mill.retriever.add(mill.principal, mill.store_id, "one", files[:10])
    removed_early, removed_late = files[3][0], files[20][0]
    for source in (removed_early, removed_late):
        await shelf.replace(mill.store_id, source, (), np.zeros((0, 0), np.float32))
    added = await mill.ingest("new.md", ["brand new words"])
    await mill.retriever.add(mill.principal, mill.store_id, "one", files[10:])
    assert len((await mill.ask("new words"))[0]) == 4 * (FILES - 2) + 1
    await mill.retriever.end(mill.principal, mill.store_id, "one")
    nearest, _ = await shelf.search(mill.store_id, "", FakeEmbeds.vector("brand new words"), 5 * FILES)
    assert nearest[0].file_id == added
    assert len(nearest) == 4 * (FILES - 2) + 1
    assert not {removed_early.file_id, removed_late.file_id} & {hit.file_id for hit in nearest}


async def test_of_two_rebuilds_the_one_that_began_last_counts(mill: Mill):
    files = [filed async for page in mill.store.of(mill.principal).corpus.files(mill.store_id) for filed in page]
    before = await mill.ask("wheel")
    for build in ("one", "two"):
        await mill.retriever.begin(mill.principal, mill.store_id, build, files[0][2].shape[1])
    for late in (mill.retriever.add(mill.principal, mill.store_id, "one", files), mill.retriever.end(mill.principal, mill.store_id, "one")):
        with pytest.raises(Conflict):
            await late
    await mill.retriever.add(mill.principal, mill.store_id, "two", files)
    assert await mill.ask("wheel") == before
    await mill.retriever.end(mill.principal, mill.store_id, "two")
    assert await mill.ask("wheel") == before
    assert len(list(mill.folder.glob("*.lance"))) == 1


async def test_searches_go_on_during_a_rebuild(mill: Mill):
    wanted, done = await mill.ask("wheel"), asyncio.Event()

    async def read() -> int:
        reads = 0
        while not done.is_set():
            assert await mill.ask("wheel") == wanted
            reads += 1
        return reads

    async def build() -> None:
        for number in range(3):
            await rebuild(mill.store, mill.retriever, mill.principal, mill.store_id, str(number))
        done.set()

    reads, _ = await asyncio.gather(read(), build())
    assert reads > 3


async def test_a_build_that_can_not_be_written_to_is_given_up_and_holds_up_nobody(mill: Mill):
    files = [filed async for page in mill.store.of(mill.principal).corpus.files(mill.store_id) for filed in page]
    await mill.retriever.begin(mill.principal, mill.store_id, "one", files[0][2].shape[1])
    await mill.restart()
    shutil.rmtree(mill.folder / f"{(mill.folder / 'next').read_text()}.lance")
    await mill.ingest("new.md", ["brand new words"])
    assert len((await mill.ask("new words"))[0]) == 4 * FILES + 1
    with pytest.raises(Conflict):
        await mill.retriever.end(mill.principal, mill.store_id, "one")
