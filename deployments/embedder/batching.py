"""What is encoded together: texts that wait, alike in length, and the one thread that encodes them.

Nobody waits for company: a text goes at once where the thread is idle, and what comes while it is busy is the next batch. On a CPU a
batch gains little (8 questions take 8 times as long as one), so waiting would cost more than it brings.
"""

import asyncio
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from deployments.core.telemetry import EMBED_BATCH, EMBED_WAIT
from deployments.core.types import Vectors
from deployments.core.window import Window
from deployments.embedder.model import Encodes

QUERY_RUN = 4
"""Batches of queries in a row while bulk work waits: it ends under any load."""
LOOK = 256
"""Waiting texts that are looked through for some of like length."""
ALIKE = 2
"""The longest text of a batch has at most so many times the tokens of the shortest: the rest would be padding."""
LOOK_BACK_S = 10
"""Time over which the thread's pace is measured."""
USUAL_TOKENS_PER_S = 2000
"""The pace until one was measured: the embedded model on one busy core."""


@dataclass(frozen=True, eq=False)
class Waiting:
    """A text, how many tokens it has, and who waits for its vector."""

    text: str
    tokens: int
    done: "asyncio.Future[NDArray[np.float32]]"
    since: float = 0.0
    """When it came, by the monotonic clock."""


class Queue:
    """Texts in the order they came, queries before bulk work; sans-I/O."""

    def __init__(self, limit_tokens: int):
        self._limit = limit_tokens
        self._queries: deque[Waiting] = deque()
        self._bulk: deque[Waiting] = deque()
        self._run = 0

    @property
    def tokens(self) -> int:
        """Tokens of all texts that wait."""
        return sum(one.tokens for lane in (self._queries, self._bulk) for one in lane if not one.done.done())

    def put(self, one: Waiting, *, bulk: bool) -> None:
        """Have a text wait."""
        (self._bulk if bulk else self._queries).append(one)

    def take(self) -> list[Waiting]:
        """The next batch: the text that waited longest, and others as long within the bound of tokens; [] where none waits.

        Who no longer waits for a vector is dropped.
        """
        for lane in (self._queries, self._bulk):
            while lane and lane[0].done.done():
                lane.popleft()
        late = self._bulk and self._run >= QUERY_RUN
        lane = self._bulk if late or not self._queries else self._queries
        self._run = self._run + 1 if lane is self._queries and self._bulk else 0
        return self._batch(lane) if lane else []

    def _batch(self, lane: deque[Waiting]) -> list[Waiting]:
        first = lane[0]
        batch, shortest, longest = [first], first.tokens, first.tokens
        near = sorted(islice(lane, 1, LOOK), key=lambda one: abs(one.tokens - first.tokens))
        for one in near:
            low, high = min(shortest, one.tokens), max(longest, one.tokens)
            if (len(batch) + 1) * high > self._limit or high > ALIKE * low:
                break
            if not one.done.done():
                batch.append(one)
                shortest, longest = low, high
        for one in batch:
            lane.remove(one)
        return batch


class Batcher:
    """Encodes for many callers on one thread."""

    def __init__(self, encoder: Encodes, limit_tokens: int):
        self._encoder = encoder
        self._queue = Queue(limit_tokens)
        self._thread = ThreadPoolExecutor(1, "encoder")
        self._work: asyncio.Task[None] | None = None
        self._busy, self._tokens = Window(LOOK_BACK_S, 4096), Window(LOOK_BACK_S, 4096)

    @property
    def load(self) -> Mapping[str, float]:
        """`queue_s`, how long what waits would take at the pace of the last seconds, and `busy`, the part of them the thread worked."""
        now_s = time.monotonic()
        busy_s, tokens = self._busy.total(now_s), self._tokens.total(now_s)
        per_s = tokens / busy_s if busy_s else USUAL_TOKENS_PER_S
        return {"queue_s": self._queue.tokens / per_s, "busy": min(busy_s / LOOK_BACK_S, 1)}

    async def encode(self, texts: Sequence[str], *, bulk: bool) -> Vectors:
        """Vectors of shape (len(texts), dimensions), in the order of `texts`; raises what the encoder raises."""
        lengths = await asyncio.to_thread(self._encoder.lengths, texts) if bulk else self._encoder.lengths(texts)
        loop = asyncio.get_running_loop()
        waiting = [Waiting(text, tokens, loop.create_future(), time.monotonic()) for text, tokens in zip(texts, lengths, strict=True)]
        for one in waiting:
            self._queue.put(one, bulk=bulk)
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._empty())
        return np.stack(await asyncio.gather(*(one.done for one in waiting)))

    async def _empty(self) -> None:
        loop = asyncio.get_running_loop()
        while batch := self._queue.take():
            EMBED_BATCH.see(len(batch))
            began_s = time.monotonic()
            EMBED_WAIT.see(began_s - batch[0].since)
            try:
                vectors = await loop.run_in_executor(self._thread, self._encoder.encode, [one.text for one in batch])
            except Exception as error:  # whatever it is, those who wait have to be told
                _settle(batch, error)
            else:
                _settle(batch, vectors)
            now_s = time.monotonic()
            self._busy.feed(now_s, now_s - began_s)
            self._tokens.feed(now_s, sum(one.tokens for one in batch))


def _settle(batch: Sequence[Waiting], outcome: Vectors | Exception) -> None:
    for row, one in enumerate(batch):
        if one.done.done():
            continue
        if isinstance(outcome, Exception):
            one.done.set_exception(outcome)
        else:
            one.done.set_result(outcome[row])


def batches(lengths: Sequence[int], limit_tokens: int) -> Iterator[list[int]]:
    """The places of texts of those lengths, shortest first, in groups of at most so many tokens (or one text), padding counted."""
    group: list[int] = []
    for place in sorted(range(len(lengths)), key=lengths.__getitem__):
        if group and (len(group) + 1) * lengths[place] > limit_tokens:
            yield group
            group = []
        group.append(place)
    if group:
        yield group


def encode(encoder: Encodes, texts: Sequence[str], limit_tokens: int) -> Vectors:
    """Vectors of shape (len(texts), dimensions), in the order of `texts`, encoded in batches on the caller's thread."""
    vectors = np.empty((len(texts), encoder.dimensions), np.float32)
    for places in batches(encoder.lengths(texts), limit_tokens):
        vectors[places] = encoder.encode([texts[place] for place in places])
    return vectors
