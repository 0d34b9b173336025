"""Embeddings of the texts of a benchmark, kept in a folder so that the next run is quick."""

from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np

from deployments.core.types import Vectors

BATCH = 8


class Embeddings:
    """Texts to unit-length vectors by `encode`; what was embedded under the same model name before is read from the folder."""

    def __init__(self, folder: Path, model: str, encode: Callable[[Sequence[str]], Vectors]):
        self._folder, self._model, self._encode = folder, model, encode

    def of(self, texts: Sequence[str]) -> Vectors:
        """One row a text, in the order of `texts`."""
        name = blake2b("\0".join((self._model, *texts)).encode(), digest_size=16).hexdigest()
        file = self._folder / f"{name}.f32"
        if file.exists():
            return np.frombuffer(file.read_bytes(), np.float32).reshape(len(texts), -1)
        # Texts of like length share a batch: padding is work, too.
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        rows = [self._encode([texts[place] for place in order[at : at + BATCH]]) for at in range(0, len(order), BATCH)]
        vectors = np.concatenate(rows)[np.argsort(order)]
        self._folder.mkdir(parents=True, exist_ok=True)
        file.write_bytes(vectors.tobytes())
        return vectors
