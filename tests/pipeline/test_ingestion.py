"""Whole ingestions: killed and resumed, searched while they are replaced, taken over from others, and measured."""

import asyncio
import contextlib
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import lancedb
import pytest

from deployments.core import config
from deployments.core.config import Settings
from deployments.core.jobs import INGEST
from deployments.core.schema import migrate
from deployments.core.store import Store, TenantStore, open_store
from deployments.core.types import Chunk, Principal, Query
from deployments.embedder.model import load
from deployments.embedder.tokens import tokens
from deployments.retriever.chunk import chunk
from deployments.retriever.parse import parse
from deployments.retriever.service import Retriever
from pipeline.jobs import WINDOW_TOKENS, Ingest
from tests.fakes import FakeEmbeds, means, tenant
from tests.pipeline.ingesting import Encoding, settings_in, work

ROOT = Path(__file__).parents[2]


def pages(count: int) -> dict[str, bytes]:
    return {f"page{n}.md": f"# Page {n}\n\n{f'The wheel of page {n} turns the stone. ' * 20}\n\n".encode() * 3 for n in range(count)}


def documentation(data: Path) -> dict[str, bytes]:
    folder = data / "docs_fastapi" / "docs"
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.md"))}


def passages(files: dict[str, bytes], settings: Settings) -> dict[str, list[Chunk]]:
    """What the passages of some files ought to be."""
    count, limit = tokens(settings).count, settings.retriever.chunk_tokens
    return {name: chunk(parse(content, name), limit, count, WINDOW_TOKENS) for name, content in files.items()}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    settings = settings_in(tmp_path)
    await migrate(settings.database_url)
    store = open_store(settings)
    yield store
    await store.close()


async def placed(mine: TenantStore, files: dict[str, bytes]) -> tuple[str, dict[str, str]]:
    """A vector store with these files waiting, and their ids."""
    store_id = (await mine.add_store("docs")).id
    ids = {(await mine.add_file(name, "assistants", content)).id: name for name, content in files.items()}
    for file_id in ids:
        await mine.add_member(store_id, file_id, {})
    return store_id, ids


@contextlib.contextmanager
def worker(folder: Path, embedder: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker of its own, which has begun; it is killed at the end."""
    command = [sys.executable, "-m", "tests.pipeline.ingesting", str(folder), embedder]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == b"begun\n"
            yield process
        finally:
            process.kill()


def indexed(folder: Path) -> list[tuple[str, int]]:
    """File and number of every row of the one table of an index."""
    (table,) = Settings(data_dir=folder).index_dir.glob("*/*/*.lance")
    names = lancedb.connect(table.parent).open_table(table.stem).to_arrow()["id"].to_pylist()
    return [(file_id, int(number)) for file_id, number in (name.split(":") for name in names)]


@pytest.mark.parametrize(
    ("kills", "embedder", "every_s"),
    [(1, "fake", 0.6), pytest.param(10, "real", 8, marks=[pytest.mark.full, pytest.mark.timeout(1800)])],
)
async def test_a_worker_killed_at_random_goes_on_where_it_was(
    store: Store, tmp_path: Path, kills: int, embedder: str, every_s: float, request: pytest.FixtureRequest
) -> None:
    chance = random.Random(5)
    files = pages(40) if embedder == "fake" else documentation(request.getfixturevalue("data"))
    mine = store.of(await tenant(store, "acme"))
    store_id, ids = await placed(mine, files)
    done: list[int] = []
    for _ in range(kills):
        with worker(tmp_path, embedder):
            await asyncio.sleep(every_s * (0.5 + chance.random()))
        done.append((await mine.store(store_id)).counts.get("completed", 0))
    with worker(tmp_path, embedder) as process:
        assert await asyncio.to_thread(process.wait) == 0
    print(f"completed of {len(files)} at each kill: {done}")  # noqa: T201
    assert done[-1] < len(files), "it was killed too late to show anything"
    assert (await mine.store(store_id)).counts == {"completed": len(files)}
    expected = await asyncio.to_thread(passages, files, settings_in(tmp_path))
    assert {name: await mine.passages(file_id) for file_id, name in ids.items()} == expected
    every = Counter(indexed(tmp_path))
    assert every == Counter((file_id, one.number) for file_id, name in ids.items() for one in expected[name])


async def ingested(store: Store, ingest: Ingest) -> None:
    job = await store.jobs.lease({INGEST: 60})
    assert job
    await ingest.run(means(store), job)


async def test_a_search_sees_the_old_or_the_new_passages_of_a_file_and_never_none(tmp_path: Path, store: Store) -> None:
    content = " ".join(f"Wheel number {number} turns the stone." for number in range(90)).encode()
    cut = [settings_in(tmp_path).model_copy(update={"retriever": config.Retriever(chunk_tokens=limit)}) for limit in (200, 40)]
    either = [{one.text for one in passages({"a.txt": content}, settings)["a.txt"]} for settings in cut]
    who, retriever, embeds = await tenant(store, "acme"), Retriever(cut[0]), FakeEmbeds()
    mine = store.of(who)
    store_id, [file_id] = await placed(mine, {"a.txt": content})
    await ingested(store, Ingest(cut[0], embeds, retriever))
    seen: list[set[str]] = []
    over = asyncio.Event()

    async def look() -> None:
        while not over.is_set():
            found = await retriever.search(Query(who, store_id, "wheel turns", FakeEmbeds.vector("the wheel turns"), limit=9))
            seen.append({passage.chunk.text for passage in found})

    looking = [asyncio.create_task(look()) for _ in range(4)]
    for number in range(1, 9):
        await mine.add_member(store_id, file_id, {})
        await ingested(store, Ingest(cut[number % 2], embeds, retriever))
    over.set()
    await asyncio.gather(*looking)
    assert all(texts and any(texts <= one for one in either) for texts in seen)
    assert all(any(texts <= one for texts in seen) for one in either)


async def test_workers_at_the_same_store_leave_every_passage_once(tmp_path: Path, store: Store) -> None:
    files = pages(12)
    mine = store.of(await tenant(store, "acme"))
    store_id, ids = await placed(mine, files)
    await asyncio.gather(*(work(settings_in(tmp_path), FakeEmbeds()) for _ in range(3)))
    expected = passages(files, settings_in(tmp_path))
    assert (await mine.store(store_id)).counts == {"completed": 12}
    assert Counter(indexed(tmp_path)) == Counter((file_id, one.number) for file_id, name in ids.items() for one in expected[name])


def clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def since(began: tuple[float, float]) -> str:
    now = clocks()
    return f"{now[0] - began[0]:.1f} s ({now[1] - began[1]:.1f} s of CPU)"


@pytest.mark.full
@pytest.mark.timeout(900)
async def test_the_documentation_is_ingested_within_a_minute(data: Path, tmp_path: Path, store: Store) -> None:
    settings, files = Settings(data_dir=tmp_path, worker=config.Worker(poll_s=0.05)), documentation(data)
    encodes = Encoding(load(settings))
    tokens(settings).count("loaded")
    began = clocks()
    cut = passages(files, settings)
    parsed = since(began)
    store_id, _ = await placed(store.of(await tenant(store, "acme")), files)
    began = clocks()
    await work(settings, encodes)
    whole_s = time.perf_counter() - began[0]
    count = sum(map(len, cut.values()))
    print(f"{len(files)} pages, {count} passages: {parsed} to parse and cut, {since(began)} in all")  # noqa: T201
    assert (await store.of(Principal("acme", "k", frozenset())).store(store_id)).counts == {"completed": len(files)}
    assert whole_s <= 60
