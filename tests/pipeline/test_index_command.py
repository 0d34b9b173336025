"""`headrace index`: an index that was dropped or damaged is made again from the database by one command."""

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from deployments.core.config import Settings
from deployments.core.keys import Keys
from deployments.core.schema import migrate
from deployments.core.store import Store, open_store
from deployments.core.types import Chunk, Principal, Query, Source
from deployments.retriever.service import Retriever
from pipeline.cli.app import app
from tests.fakes import FakeEmbeds

TENANTS = ("acme", "other")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "serve.yaml"
    file.write_text(json.dumps({"applications": [{"args": {"data_dir": str(tmp_path / "data")}}]}))
    return file


def run(config: Path, *words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["index", *words, "--config", str(config)])
    return done.exit_code, done.output


def within(config: Path, work: Callable[[Store, Retriever], Awaitable[Any]]) -> Any:
    async def act() -> Any:
        settings = Settings(data_dir=config.parent / "data")
        store, retriever = open_store(settings), Retriever(settings)
        try:
            return await work(store, retriever)
        finally:
            await retriever.close()
            await store.close()

    return asyncio.run(act())


def fill(config: Path) -> dict[str, str]:
    """A store of each tenant; the ids by tenant."""

    async def work(store: Store, retriever: Retriever) -> dict[str, str]:
        await migrate(str(store.engine.url))
        return {name: await _fill(store, retriever, name) for name in TENANTS}

    return within(config, work)


async def _fill(store: Store, retriever: Retriever, name: str) -> str:
    await Keys(store, b"pepper").add_tenant(name, name)
    principal = Principal(name, "k", frozenset())
    mine = store.of(principal)
    store_id = (await mine.add_store("docs")).id
    for number in range(3):
        texts = [f"{name} words {number} {part}" for part in range(4)]
        chunks = [Chunk(n, t, (), n * (len(t) + 1), n * (len(t) + 1) + len(t), 4) for n, t in enumerate(texts)]
        vectors = np.stack([FakeEmbeds.vector(text) for text in texts])
        file_id = (await mine.add_file(f"{number}.md", "assistants", b"x")).id
        member = await mine.add_member(store_id, file_id, {})
        source = Source(file_id, f"{number}.md", "", {}, member.created_at)
        await retriever.replace(principal, store_id, source, chunks, vectors)
        await mine.complete(store_id, file_id, "", "\n".join(texts), chunks, vectors)
    return store_id


def found(config: Path, name: str, store_id: str) -> list[str]:
    async def work(store: Store, retriever: Retriever) -> list[str]:
        query = Query(Principal(name, "k", frozenset()), store_id, "words", FakeEmbeds.vector(f"{name} words"), 20, 1000)
        return [passage.chunk.text for passage in await retriever.search(query)]

    return within(config, work)


def verdicts(config: Path, *words: str) -> dict[str, tuple[int, int, int, int]]:
    _, output = run(config, "verify", *words, "--json")
    said = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return {one["tenant"]: (one["sound"], one["damaged"], one["missing"], one["surplus"]) for one in said}


def test_a_dropped_index_is_made_again(config: Path) -> None:
    stores = fill(config)
    before = {name: len(found(config, name, store_id)) for name, store_id in stores.items()}
    assert all(before.values())
    assert run(config, "verify")[0] == 0
    shutil.rmtree(config.parent / "data" / "index")
    code, output = run(config, "verify")
    assert code == 1
    assert stores["acme"] in output
    assert run(config, "rebuild")[0] == 0
    assert verdicts(config) == dict.fromkeys(TENANTS, (12, 0, 0, 0))
    assert {name: len(found(config, name, store_id)) for name, store_id in stores.items()} == before


def test_one_store_is_rebuilt_and_no_other(config: Path) -> None:
    stores = fill(config)
    shutil.rmtree(config.parent / "data" / "index")
    code, output = run(config, "rebuild", stores["other"])
    assert code == 0
    assert "12 passages" in output
    assert verdicts(config) == {"acme": (0, 0, 12, 0), "other": (12, 0, 0, 0)}


def test_what_the_database_does_not_know_is_seen_and_removed(config: Path) -> None:
    stores = fill(config)

    async def orphan(store: Store, retriever: Retriever) -> None:
        chunks, vectors = [Chunk(0, "orphan", (), 0, 6, 1)], FakeEmbeds.vector("orphan")[np.newaxis]
        await retriever.replace(Principal("acme", "k", frozenset()), stores["acme"], Source("file-none"), chunks, vectors)

    within(config, orphan)
    assert verdicts(config, stores["acme"]) == {"acme": (12, 0, 0, 1)}
    assert run(config, "rebuild", stores["acme"])[0] == 0
    assert verdicts(config, stores["acme"]) == {"acme": (12, 0, 0, 0)}


def test_a_store_that_is_not_there_is_named(config: Path) -> None:
    fill(config)
    code, output = run(config, "rebuild", "vs_none")
    assert code == 1
    assert "vs_none" in output
