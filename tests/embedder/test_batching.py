"""What is encoded together, and when."""

import asyncio
import threading
import time
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.core.types import Vectors
from deployments.embedder.batching import ALIKE, QUERY_RUN, Batcher, Queue, Waiting, batches, encode
from tests.fakes import FakeEmbeds


class Model:
    """Encodes as the fake embedder does, a word a token, and notes what was asked together."""

    dimensions = 64

    def __init__(self, pause_s: float = 0.0):
        self.calls: list[list[str]] = []
        self.threads: set[int] = set()
        self._pause_s = pause_s

    def lengths(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    def encode(self, texts: Sequence[str]) -> Vectors:
        time.sleep(self._pause_s)
        if "broken" in texts:
            raise RuntimeError("the model broke")
        self.calls.append(list(texts))
        self.threads.add(threading.get_ident())
        return np.stack([FakeEmbeds.vector(text) for text in texts])


class Seat:
    """A future without a loop."""

    def __init__(self) -> None:
        self.left = False

    def done(self) -> bool:
        return self.left


def waiting(name: str, tokens: int) -> Waiting:
    return Waiting(name, tokens, Seat())  # type: ignore[arg-type]


def filled(limit: int, queries: Sequence[int] = (), bulk: Sequence[int] = ()) -> Queue:
    queue = Queue(limit)
    for kind, lengths in (("query", queries), ("bulk", bulk)):
        for number, tokens in enumerate(lengths):
            queue.put(waiting(f"{kind} {number}", tokens), bulk=kind == "bulk")
    return queue


def emptied(queue: Queue) -> list[list[Waiting]]:
    batches = []
    while batch := queue.take():
        batches.append(batch)
    return batches


@given(st.lists(st.integers(1, 300)), st.lists(st.integers(1, 300)), st.integers(16, 600))
def test_every_text_is_taken_once_and_no_batch_is_too_large_or_mostly_padding(queries: list[int], bulk: list[int], limit: int):
    batches = emptied(filled(limit, queries, bulk))
    names = [one.text for batch in batches for one in batch]
    assert len(names) == len(set(names)) == len(queries) + len(bulk)
    for batch in batches:
        lengths = [one.tokens for one in batch]
        assert len(batch) == 1 or len(batch) * max(lengths) <= limit
        assert max(lengths) <= ALIKE * min(lengths)
        assert len({one.text.split()[0] for one in batch}) == 1


@given(st.lists(st.integers(1, 300), min_size=1, max_size=200))
def test_who_waited_longest_is_always_in_the_next_batch(lengths: list[int]):
    queue, left = filled(512, bulk=lengths), [f"bulk {number}" for number in range(len(lengths))]
    while batch := queue.take():
        assert left[0] in [one.text for one in batch]
        left = [name for name in left if name not in {one.text for one in batch}]


def test_queries_go_before_bulk_work_and_bulk_work_ends_under_any_load():
    kinds = [batch[0].text.split()[0] for batch in emptied(filled(16, queries=[16] * 9, bulk=[16] * 3))]
    assert kinds == [*["query"] * QUERY_RUN, "bulk", *["query"] * QUERY_RUN, "bulk", "query", "bulk"]


def test_who_no_longer_waits_is_dropped():
    queue = Queue(16)
    gone, there = waiting("gone", 4), waiting("there", 4)
    for one in (gone, there):
        queue.put(one, bulk=False)
    gone.done.left = True  # type: ignore[attr-defined]
    assert emptied(queue) == [[there]]


async def test_a_text_goes_at_once_where_the_thread_is_idle_and_what_comes_meanwhile_goes_together():
    model = Model(pause_s=0.02)
    batcher = Batcher(model, 512)
    first = asyncio.create_task(batcher.encode(["first"], bulk=False))
    await asyncio.sleep(0.005)
    rest = [f"question {number}" for number in range(20)]
    vectors = await asyncio.gather(*(batcher.encode([text], bulk=False) for text in rest))
    await first
    assert [len(call) for call in model.calls] == [1, 20]
    assert len(model.threads) == 1
    assert threading.get_ident() not in model.threads
    for text, vector in zip(rest, vectors, strict=True):
        np.testing.assert_array_equal(vector[0], FakeEmbeds.vector(text))


async def test_a_cancelled_call_does_not_move_the_vectors_of_others():
    batcher = Batcher(Model(pause_s=0.002), 16)
    calls = [asyncio.ensure_future(batcher.encode([f"text {number}"], bulk=False)) for number in range(60)]
    await asyncio.sleep(0.003)
    for call in calls[::3]:
        call.cancel()
    results = await asyncio.gather(*calls, return_exceptions=True)
    for number, result in enumerate(results):
        if not isinstance(result, BaseException):
            np.testing.assert_array_equal(result[0], FakeEmbeds.vector(f"text {number}"))
    assert sum(not isinstance(result, BaseException) for result in results) >= 40


async def test_bulk_work_keeps_its_order_and_lets_queries_through():
    model = Model(pause_s=0.002)
    batcher = Batcher(model, 64)
    texts = [f"passage {number} " + "word " * (number % 50) for number in range(120)]
    bulk = asyncio.ensure_future(batcher.encode(texts, bulk=True))
    while not model.calls:
        await asyncio.sleep(0.001)
    for number in range(3):
        before = len(model.calls)
        await batcher.encode([f"query {number}"], bulk=False)
        assert len(model.calls) <= before + 3
    assert not bulk.done()
    np.testing.assert_array_equal(await bulk, np.stack([FakeEmbeds.vector(text) for text in texts]))


async def test_an_error_reaches_those_who_wait_for_it_and_work_goes_on():
    batcher = Batcher(Model(), 512)
    with pytest.raises(RuntimeError, match="broke"):
        await batcher.encode(["broken"], bulk=False)
    assert (await batcher.encode(["whole"], bulk=False)).shape == (1, 64)


@given(st.lists(st.integers(1, 300)), st.integers(16, 600))
def test_batches_hold_every_place_once_and_are_bounded(lengths: list[int], limit: int):
    groups = list(batches(lengths, limit))
    assert sorted(place for group in groups for place in group) == list(range(len(lengths)))
    assert all(len(group) == 1 or len(group) * max(lengths[place] for place in group) <= limit for group in groups)


def test_many_texts_are_encoded_in_their_order_on_this_thread():
    model = Model()
    texts = [f"passage {number} " + "word " * (number % 50) for number in range(60)]
    np.testing.assert_array_equal(encode(model, texts, 64), np.stack([FakeEmbeds.vector(text) for text in texts]))
    assert model.threads == {threading.get_ident()}
    assert encode(model, [], 64).shape == (0, 64)


async def test_the_queue_is_told_as_the_time_it_would_take() -> None:
    batcher = Batcher(Model(pause_s=0.05), 64)
    assert batcher.load == {"queue_s": 0, "busy": 0}
    await batcher.encode(["word " * 50], bulk=False)
    calls = asyncio.gather(*(batcher.encode(["word " * 50], bulk=False) for _ in range(20)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    load = batcher.load
    assert 0.05 * 19 <= load["queue_s"] <= 20 * 0.05 * 10
    assert 0.005 <= load["busy"] <= 1
    await calls
    assert batcher.load["queue_s"] == 0
    assert batcher.load["busy"] >= 0.1
