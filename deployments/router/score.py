"""How complex a question is, from its embedding and its text: ridge regression over random features and hashed n-grams; numpy only.

`make train-router` writes the weights, `complexity.npz`, and beside them the record of how they were trained.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deployments.core.types import Vector, Vectors

Floats = NDArray[np.float32]

WEIGHTS = Path(__file__).with_name("complexity.npz")
READ_CHARS = 2000
"""Only so much of a text is looked at, its length apart, which bounds what a score costs."""
OUTLINES, WAVES = 512, 2048
"""Random features of a question's outline and of its embedding; they are drawn anew from the seed wherever they are needed."""
BUCKETS = 8192
"""Places that n-grams are hashed to."""
LONGEST_GRAM = 5
"""Bytes of the longest n-gram; the shortest has two."""
SEED = 0

_OUTLINE_WIDTH = 1.2
"""The kernel of two outlines is exp(-this / 2 x the mean square of their differences)."""
_EMBEDDING_WIDTH = 3.0
"""That of two embeddings is exp(-this x (1 - cosine))."""
_FARTHEST = 3.0
"""Standard deviations from the mean at which a part of an outline is cut."""

_WORD = re.compile(r"[^\W\d_]+")
_CHOICES = re.compile(r"^[B-D][.)] ", re.MULTILINE)
_PRIME = np.uint32(0x01000193)


def surface(text: str) -> Floats:
    """What can be seen of a text without understanding it, shape (8,): its length, its words, digits, lines and quotation marks."""
    length, text = len(text), text[:READ_CHARS]
    words = _WORD.findall(text.lower())
    number = max(len(words), 1)
    digits = sum(map(text.count, "0123456789"))
    amounts = np.log1p([length, len(words), digits, text.count("\n"), text.count('"')])
    return np.array([*amounts, sum(map(len, words)) / number, len(set(words)) / number, digits / max(len(text), 1)], np.float32)


def grams(text: str) -> Floats:
    """How often n-grams of the text's bytes fall into each bucket, shape (BUCKETS,), as 1 + log(count).

    None is counted where choices are listed: the words of such a question are those of its subject, and say little of another.
    """
    if _CHOICES.search(text, 0, READ_CHARS):
        return np.zeros(BUCKETS, np.float32)
    given = _bytes(" ".join(text[:READ_CHARS].lower().split())).astype(np.uint32)
    hashed, places = given.copy(), list[NDArray[np.uint32]]()
    for size in range(2, LONGEST_GRAM + 1):
        hashed = (hashed[:-1] * _PRIME) ^ given[size - 1 :] if len(hashed) > 1 else hashed[:0]
        places.append(((hashed * np.uint32(0x9E3779B1)) ^ np.uint32(size * 0x85EB)) >> np.uint32(19))
    counts = np.bincount(np.concatenate(places), minlength=BUCKETS).astype(np.float32)
    return np.where(counts > 0, 1 + np.log(np.maximum(counts, 1)), 0).astype(np.float32)


class Features:
    """Texts with their embeddings as rows whose products are what the regression takes for likeness.

    An outline is the surface and the embedding along a few `axes`, shape (k, dimensions); `mean` and `scale` are those of outlines,
    shape (8 + k,), and `rarity` is the inverse document frequency of each bucket.
    """

    def __init__(self, axes: Floats, mean: Floats, scale: Floats, rarity: Floats):
        self._axes, self._mean, self._scale, self._rarity = axes, mean, scale, rarity
        random = np.random.RandomState(SEED)  # its stream is frozen, unlike that of a Generator (NEP 19)
        self._outlines = _Waves(random, OUTLINES, len(mean), _OUTLINE_WIDTH / len(mean))
        self._waves = _Waves(random, WAVES, axes.shape[1], _EMBEDDING_WIDTH)

    def of(self, surfaces: Floats, counts: Floats, vectors: Vectors) -> Floats:
        """Rows of shape (n, OUTLINES + WAVES + BUCKETS); where no n-gram is counted, the outline is all there is."""
        seen = (outlines(surfaces, vectors, self._axes) - self._mean) / self._scale
        counted = counts.any(axis=1, keepdims=True)
        weighed = counts * self._rarity
        weighed /= np.maximum(np.linalg.norm(weighed, axis=1, keepdims=True), 1e-6)
        return np.hstack([self._outlines.of(np.clip(seen, -_FARTHEST, _FARTHEST)), counted * self._waves.of(vectors), weighed])


class _Waves:
    """Random features of a Gaussian kernel, exp(-width / 2 x distance²) (Rahimi and Recht, NIPS 2007)."""

    def __init__(self, random: np.random.RandomState, number: int, dimensions: int, width: float):
        self._directions = (random.standard_normal((dimensions, number)) * np.sqrt(width)).astype(np.float32)
        self._phases = random.uniform(0, 2 * np.pi, number).astype(np.float32)

    def of(self, given: Floats) -> Floats:
        """Shape (n, number)."""
        return np.float32(np.sqrt(2 / len(self._phases))) * np.cos(given @ self._directions + self._phases)


def outlines(surfaces: Floats, vectors: Vectors, axes: Floats) -> Floats:
    """Outlines as they are before they are scaled, shape (n, 8 + k)."""
    return np.hstack([surfaces, vectors @ axes.T])


class Complexity:
    """The score in force: a share of the questions it was trained on, those that are less complex."""

    def __init__(self, weights: Mapping[str, NDArray]):
        parts = {name: weight.astype(np.float32) for name, weight in weights.items()}
        self._slopes, self._knots = parts.pop("slopes"), parts.pop("knots")
        self._features = Features(**parts)
        self._shares = np.linspace(0, 1, len(self._knots))

    @classmethod
    def load(cls, file: Path = WEIGHTS) -> "Complexity":
        """That of a file of weights."""
        with np.load(file, allow_pickle=False) as weights:
            return cls(dict(weights))

    def score(self, text: str, vector: Vector) -> float:
        """0 (simple) to 1 (complex) for a question with that embedding, shape (dimensions,)."""
        return float(np.interp(self.raw([text], vector[None])[0], self._knots, self._shares))

    def raw(self, texts: Sequence[str], vectors: Vectors) -> Floats:
        """What the regression says, shape (n,): the gain by a large model, less its mean."""
        surfaces, counts = (np.stack([one(text) for text in texts]) for one in (surface, grams))
        return self._features.of(surfaces, counts, vectors) @ self._slopes


def _bytes(text: str) -> NDArray[np.uint8]:
    return np.frombuffer(text.encode("utf-8", "replace"), np.uint8)
