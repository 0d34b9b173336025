"""Keeps the vectors of recent queries."""

from collections import OrderedDict
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray


class VectorCache:
    """A bounded map from text to vector; the least recently used goes first.

    Keys are digests, so no text is kept. A vector depends on text and model alone: tenants who share one learn nothing but time.
    """

    def __init__(self, model: str, capacity: int):
        self._seed = blake2b(model.encode(), digest_size=16).digest()
        self._capacity = capacity
        self._vectors: OrderedDict[bytes, NDArray[np.float32]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._vectors)

    def get(self, text: str) -> NDArray[np.float32] | None:
        """The vector of `text`, or None."""
        key = self._key(text)
        vector = self._vectors.get(key)
        if vector is not None:
            self._vectors.move_to_end(key)
        return vector

    def put(self, text: str, vector: NDArray[np.float32]) -> None:
        """Remember a vector of shape (dimensions,)."""
        self._vectors[self._key(text)] = vector
        while len(self._vectors) > self._capacity:
            self._vectors.popitem(last=False)

    def _key(self, text: str) -> bytes:
        return blake2b(text.encode("utf-8", "surrogatepass"), key=self._seed, digest_size=16).digest()
