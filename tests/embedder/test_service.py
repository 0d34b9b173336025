"""The replica's own code, on a fake model and without a cluster."""

import asyncio
import threading
import time
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.core.config import Settings
from deployments.core.types import Vectors
from tests.fakes import FakeEmbeds

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray's own, when it is imported
    from ray.serve import context
    from ray.serve._private.common import DeploymentID, ReplicaID
    from ray.serve._private.config import DeploymentConfig
    from ray.serve.schema import ReplicaRank

    from deployments.embedder import service
    from deployments.embedder.service import SLICE_CHARS, Embedder, slices


class Model:
    """Encodes as the fake embedder does, and notes what was asked together."""

    dimensions = 64

    def __init__(self, pause_s: float = 0.0):
        self.calls: list[int] = []
        self.threads: set[int] = set()
        self._pause_s = pause_s

    def encode(self, texts: Sequence[str]) -> Vectors:
        time.sleep(self._pause_s)
        self.calls.append(len(texts))
        self.threads.add(threading.get_ident())
        return np.stack([FakeEmbeds.vector(text) for text in texts])


together = pytest.mark.asyncio(loop_scope="module")
"""The queue of @serve.batch belongs to the loop that first used it, so these tests share one."""


@pytest.fixture(autouse=True)
def replica() -> Iterator[None]:
    """What @serve.batch asks of the process it runs in; private to Ray, so kept in this one place."""
    before = context._INTERNAL_REPLICA_CONTEXT
    rank = ReplicaRank(rank=0, node_rank=0, local_rank=0)
    context._set_internal_replica_context(
        replica_id=ReplicaID("local", DeploymentID("embedder")),
        servable_object=None,
        _deployment_config=DeploymentConfig(max_ongoing_requests=100),
        rank=rank,
        world_size=1,
    )
    yield
    context._INTERNAL_REPLICA_CONTEXT = before


def embedder(monkeypatch: pytest.MonkeyPatch, model: Model, **values: float):
    monkeypatch.setattr(service, "load", lambda settings: model)
    settings = Settings()
    return Embedder(settings.model_copy(update={"embedder": settings.embedder.model_copy(update=values)}))


@together
async def test_queries_that_come_together_are_encoded_together_and_each_gets_its_own_vector(monkeypatch: pytest.MonkeyPatch):
    model = Model(pause_s=0.01)
    embeds = embedder(monkeypatch, model, max_batch=16)
    texts = [f"question number {number} of tenant {number % 7}" for number in range(100)]
    vectors = await asyncio.gather(*(embeds.embed([text]) for text in texts))
    for text, vector in zip(texts, vectors, strict=True):
        np.testing.assert_array_equal(vector[0], FakeEmbeds.vector(text))
    assert sum(model.calls) == 100
    assert len(model.calls) < 30
    assert max(model.calls) <= 16


@together
async def test_a_cancelled_query_does_not_move_the_vectors_of_others(monkeypatch: pytest.MonkeyPatch):
    embeds = embedder(monkeypatch, Model(pause_s=0.005), max_batch=8)
    calls = [asyncio.ensure_future(embeds.embed([f"text {number}"])) for number in range(60)]
    await asyncio.sleep(0.002)
    for call in calls[::3]:
        call.cancel()
    results = await asyncio.gather(*calls, return_exceptions=True)
    for number, result in enumerate(results):
        if not isinstance(result, BaseException):
            np.testing.assert_array_equal(result[0], FakeEmbeds.vector(f"text {number}"))
    assert sum(not isinstance(result, BaseException) for result in results) >= 40


@together
async def test_a_query_asked_again_is_not_encoded_again(monkeypatch: pytest.MonkeyPatch):
    model = Model()
    embeds = embedder(monkeypatch, model)
    first = await embeds.embed(["the same"])
    np.testing.assert_array_equal(first, await embeds.embed(["the same"]))
    assert model.calls == [1]


@together
async def test_bulk_work_keeps_its_order_and_lets_queries_through(monkeypatch: pytest.MonkeyPatch):
    model = Model(pause_s=0.01)
    embeds = embedder(monkeypatch, model)
    texts = [f"passage {number} " + "word " * (number % 50) for number in range(200)]
    bulk = asyncio.ensure_future(embeds.embed(texts))
    await asyncio.sleep(0.03)
    waits = []
    for number in range(5):
        begin = time.monotonic()
        await embeds.embed([f"query {number}"])
        waits.append(time.monotonic() - begin)
    assert not bulk.done()
    assert sorted(waits)[2] < 0.1
    np.testing.assert_array_equal(await bulk, np.stack([FakeEmbeds.vector(text) for text in texts]))
    assert threading.get_ident() not in model.threads


@together
async def test_no_texts_are_no_rows(monkeypatch: pytest.MonkeyPatch):
    assert (await embedder(monkeypatch, Model()).embed([])).shape == (0, 64)


@given(st.lists(st.integers(0, 3000)))
def test_slices_hold_every_row_once_and_are_bounded(lengths: list[int]):
    texts = ["x" * length for length in lengths]
    groups = list(slices(texts))
    assert sorted(row for group in groups for row in group) == list(range(len(texts)))
    for group in groups:
        assert len(group) == 1 or len(group) * max(len(texts[row]) for row in group) <= SLICE_CHARS
