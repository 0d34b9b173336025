"""The replica's own code, on a fake model and without a cluster."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import pytest
from pydantic import SecretStr

from deployments.core import config
from deployments.core.config import Settings
from deployments.core.types import Principal
from deployments.embedder import service
from deployments.embedder.service import QUERY_TEXTS, Embedder
from tests.conftest import Server
from tests.embedder.test_batching import Model
from tests.fakes import FakeEmbeds

ACME, OTHER = (Principal(tenant, "key", frozenset()) for tenant in ("acme", "other"))
Replica = Callable[[], tuple[Embedder, Model]]


@pytest.fixture
async def replica(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, valkey_server: Server, valkey: object) -> AsyncIterator[Replica]:
    """Makes replicas that share a Valkey."""
    settings = Settings(data_dir=tmp_path, valkey_url=SecretStr(valkey_server.url))
    made: list[Embedder] = []

    def make() -> tuple[Embedder, Model]:
        model = Model()
        monkeypatch.setattr(service, "load", lambda settings: model)
        made.append(Embedder(settings))
        return made[-1], model

    yield make
    for one in made:
        await one.close()


async def test_vectors_are_in_the_order_of_the_texts(replica: Replica):
    embedder, _ = replica()
    texts = ["one", "two", "one ", "three"]
    for caller in (None, ACME):
        vectors = await embedder.embed(texts, caller)
        np.testing.assert_array_equal(vectors, np.stack([FakeEmbeds.vector(text) for text in texts]))


async def test_a_query_asked_again_is_not_encoded_again(replica: Replica):
    embedder, model = replica()
    first = await embedder.embed(["the same", "the same"], ACME)
    np.testing.assert_array_equal(first, await embedder.embed([" the same", "the same"], ACME))
    assert model.calls == [["the same"]]


async def test_another_replica_has_it_from_valkey(replica: Replica):
    first, _ = replica()
    await first.embed(["the same"], ACME)
    await first.close()
    second, model = replica()
    np.testing.assert_array_equal(await second.embed(["the same"], ACME), [FakeEmbeds.vector("the same")])
    assert model.calls == []


async def test_a_tenant_does_not_find_what_another_asked_and_without_a_caller_nothing_is_kept(replica: Replica):
    embedder, model = replica()
    for caller in (ACME, OTHER, None, None):
        await embedder.embed(["the same"], caller)
    assert model.calls == [["the same"]] * 4


async def test_bulk_work_is_not_kept(replica: Replica):
    embedder, model = replica()
    texts = [f"passage {number}" for number in range(QUERY_TEXTS + 1)]
    for _ in range(2):
        await embedder.embed(texts, ACME)
    assert sum(len(call) for call in model.calls) == 2 * len(texts)


async def test_without_a_valkey_all_else_works(monkeypatch: pytest.MonkeyPatch):
    model = Model()
    monkeypatch.setattr(service, "load", lambda settings: model)
    embedder = Embedder(Settings(embedder=config.Embedder(shared_entries=0)))
    for _ in range(2):
        await embedder.embed(["the same"], ACME)
    assert model.calls == [["the same"]]
    await embedder.check_health()


async def test_no_texts_are_no_rows(replica: Replica):
    assert (await replica()[0].embed([], ACME)).shape == (0, 64)
