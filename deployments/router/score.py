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
WAVES = 1024
"""Random features; they are drawn anew from the seed wherever they are needed."""
BUCKETS = 8192
"""Places that n-grams are hashed to."""
LONGEST_GRAM = 5
"""Bytes of the longest n-gram; the shortest has two."""
SEED = 0

_EMBEDDING_WIDTH = 2.0
"""The kernel of two embeddings is exp(-this x (1 - cosine))."""
_SURFACE_WIDTH = 1.0
"""That of two surfaces is exp(-this / 2 x the mean square of their differences)."""
_FARTHEST = 4.0
"""Standard deviations from the mean at which a feature of the surface is cut."""

_CLASSES = (b"0123456789", b"=+*/^<>{}[]()_`\\$|~", b"\n", b",", b'"', b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", b"?", b"_")
_WORDS = (
    *({word} for word in ("what", "how", "why", "which", "who", "when", "where")),
    {"not", "except", "least", "false", "incorrect"},
    {"if", "following", "then", "statement"},
    {"calculate", "find", "compute", "prove", "many", "much", "value", "probability", "percent"},
)
_WORD = re.compile(r"[^\W\d_]+")
_CLASS = np.array([[byte in members for members in _CLASSES] for byte in range(256)], np.float32)
_PRIME = np.uint32(0x01000193)


def surface(text: str) -> Floats:
    """What can be seen of a text without understanding it, shape (27,): length, words, digits, signs, lines, and words that matter."""
    length, text = len(text), text[:READ_CHARS]
    words = _WORD.findall(text.lower())
    distinct = set(words)
    counts = np.bincount(_bytes(text), minlength=256).astype(np.float32) @ _CLASS
    chars, number = max(len(text), 1), max(len(words), 1)
    sizes = (np.log1p(length), np.log1p(len(words)), sum(map(len, words)) / number, len(distinct) / number)
    shares = counts[[0, 1, 5]] / chars
    flags = [float(not distinct.isdisjoint(some)) for some in _WORDS]
    return np.array([*sizes, *np.log1p(counts), *shares, *np.minimum(counts[6:], 1), *flags], np.float32)


def grams(text: str) -> Floats:
    """How often n-grams of the text's bytes fall into each bucket, shape (BUCKETS,), as 1 + log(count)."""
    given = _bytes(" ".join(text[:READ_CHARS].lower().split())).astype(np.uint32)
    hashed, places = given.copy(), list[NDArray[np.uint32]]()
    for size in range(2, LONGEST_GRAM + 1):
        hashed = (hashed[:-1] * _PRIME) ^ given[size - 1 :] if len(hashed) > 1 else hashed[:0]
        places.append(((hashed * np.uint32(0x9E3779B1)) ^ np.uint32(size * 0x85EB)) >> np.uint32(19))
    counts = np.bincount(np.concatenate(places), minlength=BUCKETS).astype(np.float32)
    return np.where(counts > 0, 1 + np.log(np.maximum(counts, 1)), 0).astype(np.float32)


class Features:
    """Texts with their embeddings as rows whose products are what the regression takes for likeness.

    `mean` and `scale` are those of the surface, shape (27,); `rarity` is the inverse document frequency of each bucket.
    """

    def __init__(self, mean: Floats, scale: Floats, rarity: Floats, dimensions: int):
        self._mean, self._scale, self._rarity = mean, scale, rarity
        random = np.random.RandomState(SEED)  # its stream is frozen, unlike that of a Generator (NEP 19)
        widths = np.sqrt([_EMBEDDING_WIDTH] * dimensions + [_SURFACE_WIDTH / len(mean)] * len(mean))
        self._waves = (random.standard_normal((WAVES, len(widths))) * widths).astype(np.float32)
        self._phases = random.uniform(0, 2 * np.pi, WAVES).astype(np.float32)

    def of(self, surfaces: Floats, counts: Floats, vectors: Vectors) -> Floats:
        """Rows of shape (n, WAVES + BUCKETS); random features are those of Rahimi and Recht (NIPS 2007) for a Gaussian kernel."""
        seen = np.clip((surfaces - self._mean) / self._scale, -_FARTHEST, _FARTHEST)
        waves = np.sqrt(2 / WAVES) * np.cos(np.hstack([vectors, seen]) @ self._waves.T + self._phases)
        weighed = counts * self._rarity
        return np.hstack([waves, weighed / np.maximum(np.linalg.norm(weighed, axis=1, keepdims=True), 1e-6)]).astype(np.float32)


class Complexity:
    """The score in force: a share of the questions it was trained on, those that are less complex."""

    def __init__(self, weights: Mapping[str, NDArray]):
        mean, scale, rarity, self._slopes, self._knots = (
            weights[name].astype(np.float32) for name in ("mean", "scale", "rarity", "slopes", "knots")
        )
        self._features = Features(mean, scale, rarity, int(weights["dimensions"]))
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
