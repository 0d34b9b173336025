"""The results of searches, kept for who asks the same of the same content; in the memory of one process, and bounded."""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np

from deployments.core.types import Vector
from deployments.retriever.search import Hit

Results = tuple[list[Hit], list[Hit]]

STEPS = 4096
"""A component of a query vector is kept to one part in so many: the same words embedded in another batch differ by less."""
HIT_BYTES = 1200
"""What a hit takes beside its text: records, headings, and its share of the lists."""


@dataclass(frozen=True)
class State:
    """What a table held at one moment: every write gives it another version, every rebuild another name."""

    table: str
    version: int


@dataclass
class Recall:
    """Results by the store, its state and the question; what a store held in another state is forgotten. Sizes are estimates."""

    max_bytes: int
    hits: int = 0
    misses: int = 0
    size_bytes: int = 0
    _states: dict[Hashable, State] = field(default_factory=dict)
    _kept: OrderedDict[tuple[Hashable, bytes], tuple[Results, int]] = field(default_factory=OrderedDict)

    def get(self, store: Hashable, state: State, question: bytes) -> Results | None:
        """What that question found in a store in that state; `store` names tenant and store."""
        if self._states.get(store) != state:
            self._forget(store)
        if found := self._kept.get((store, question)):
            self._kept.move_to_end((store, question))
            self.hits += 1
            return found[0]
        self.misses += 1
        return None

    def put(self, store: Hashable, state: State, question: bytes, results: Results) -> None:
        """Keep what a search found that began in that state."""
        size = sum(HIT_BYTES + 4 * len(hit.chunk.text) for side in results for hit in side)
        if size > self.max_bytes // 8 or self._states.setdefault(store, state) != state or (store, question) in self._kept:
            return
        self._kept[store, question] = results, size
        self.size_bytes += size
        while self.size_bytes > self.max_bytes:
            (oldest, _), (_, freed) = self._kept.popitem(last=False)
            self.size_bytes -= freed
            if not any(store == oldest for store, _ in self._kept):
                self._states.pop(oldest, None)

    def _forget(self, store: Hashable) -> None:
        if self._states.pop(store, None) is not None:
            for key in [key for key in self._kept if key[0] == store]:
                self.size_bytes -= self._kept.pop(key)[1]


def asked(text: str, vector: Vector, limit: int, condition: str) -> bytes:
    """A digest of a question: its words, its vector in steps, how much is wanted, and the condition."""
    digest = blake2b(np.rint(vector * STEPS).astype("<i2").tobytes(), digest_size=16)
    for part in (text, condition):
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    digest.update(limit.to_bytes(8, "little"))
    return digest.digest()
