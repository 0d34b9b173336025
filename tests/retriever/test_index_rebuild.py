"""How long it takes to make a large index again, and what is left when a process is killed while it writes."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from pydantic import SecretStr

from deployments.core.config import Retriever as Section
from deployments.core.config import Settings
from deployments.core.types import Chunk, Principal, Source
from deployments.retriever.index import Index, Shelf
from deployments.retriever.service import Retriever
from pipeline.rebuild import rebuild
from tests.fakes import ROOT, FakeEmbeds, database, tenant

ALICE = Principal("alice", "k1", frozenset())
WRITER = """
import asyncio, sys
from pathlib import Path
from tests.retriever.test_index_rebuild import write
asyncio.run(write(Path(sys.argv[1])))
"""


async def nothing(principal: Principal, store_id: str) -> bool:
    return False


def opened(folder: Path) -> Index:
    return Index(folder, b"key", nothing, Section(recall_bytes=0, erase_after_s=0.05))


async def fill(shelf: Shelf, file_id: str, version: int) -> None:
    texts = [f"{file_id} version {version} part {part}" for part in range(3)]
    chunks = [Chunk(number, text, (), 0, len(text), 5) for number, text in enumerate(texts)]
    await shelf.replace("store", Source(file_id), chunks, np.stack([FakeEmbeds.vector(text) for text in texts]))


async def write(folder: Path) -> None:
    """Write versions of four files, and say each that is written; bytes are removed all the while. Never ends."""
    shelf, version = opened(folder).of(ALICE), int(time.time() * 1000)
    while True:
        for name in "abcd":
            await fill(shelf, name, version)
            sys.stdout.write(f"{name} {version}\n")
            sys.stdout.flush()
        version += 1


async def survives(folder: Path, rng: random.Random) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": "."}
    )
    assert writer.stdout is not None
    first = await asyncio.to_thread(writer.stdout.readline)
    await asyncio.sleep(rng.uniform(0.2, 1.5))
    writer.send_signal(signal.SIGKILL)
    said = dict(line.split() for line in [first, *writer.stdout.read().splitlines()])
    writer.wait()
    writer.stdout.close()
    index = opened(folder)
    nearest, _ = await index.of(ALICE).search("store", "", FakeEmbeds.vector("version part"), 100)
    for name in said:
        found = [hit.chunk.text.split() for hit in nearest if hit.file_id == name]
        assert len(found) == 3
        assert len({words[2] for words in found}) == 1
        assert int(found[0][2]) >= int(said[name])
    await fill(index.of(ALICE), "a", 1)
    assert await index.of(ALICE).verify("store") == (
        {(name, part) for name in {*said, "a"} | {hit.file_id for hit in nearest} for part in range(3)},
        0,
    )
    await index.close()


async def test_a_writer_that_is_killed_leaves_what_it_said_it_wrote(tmp_path: Path):
    await survives(tmp_path, random.Random(1))


@pytest.mark.full
@pytest.mark.timeout(900)
async def test_thirty_killed_writers(tmp_path: Path):
    for seed in range(30):
        await survives(tmp_path, random.Random(seed))


@pytest.mark.full
@pytest.mark.timeout(1800)
async def test_a_hundred_thousand_passages_are_rebuilt_within_a_minute(tmp_path: Path):
    settings = Settings(data_dir=tmp_path, root_key=SecretStr(ROOT.hex()))
    vectors = np.random.default_rng(1).normal(size=(500, 384)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    words = [f"word{number}" for number in range(5000)]
    rng = random.Random(1)
    texts = [" ".join(rng.choices(words, k=80)) for _ in range(500)]
    starts = np.cumsum([0, *(len(text) + 1 for text in texts)])
    chunks = [Chunk(n, text, ("Top",), int(starts[n]), int(starts[n]) + len(text), 80) for n, text in enumerate(texts)]
    async with database(tmp_path) as store:
        principal = await tenant(store, "acme")
        mine = store.of(principal)
        store_id = (await mine.add_store("docs")).id
        for number in range(200):
            file_id = (await mine.add_file(f"{number}.md", "assistants", b"")).id
            await mine.add_member(store_id, file_id, {"number": number})
            await mine.complete(store_id, file_id, "Title", "\n".join(texts), chunks, vectors)
        retriever, begun = Retriever(settings), time.perf_counter()
        assert await rebuild(store, retriever, principal, store_id, "build") == 100_000
        took_s = time.perf_counter() - begun
        whole, bad = await retriever.verify(principal, store_id)
        assert (len(whole), bad) == (100_000, 0)
        await retriever.close()
    sys.stdout.write(f"100,000 passages rebuilt in {took_s:.1f} s\n")
    assert took_s <= 60
