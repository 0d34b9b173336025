"""Two ranked lists to the passages of a prompt: fusion, relevance, duplicates, budget; pure functions."""

import re
from collections.abc import Iterable, Sequence

import msgspec

from deployments.core.types import Chunk, Passage

RRF_K = 60
"""Rank constant of reciprocal rank fusion (Cormack et al., SIGIR 2009)."""
MAX_TERMS = 64
"""Terms of a query that the text search reads."""
PER_FILE = 2
"""Passages of one file in a result: one long or poisoned document cannot fill the prompt."""
SAME_SHARE = 0.8
"""Two passages sharing this part of their words (Jaccard) are one."""
WORD = re.compile(r"\w+")
HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


class Hit(msgspec.Struct, frozen=True):
    """A chunk as one of the two searches found it; `similarity` is its cosine with the query."""

    file_id: str
    filename: str
    title: str
    chunk: Chunk
    similarity: float


def terms(text: str) -> str:
    """The first words of a query, each once, identifiers whole and in parts; no operator of any query language survives."""
    return " ".join(list(dict.fromkeys(_words(text)))[:MAX_TERMS])


def words(text: str) -> str:
    """What the text search indexes: the text, and the parts of its CamelCase identifiers."""
    parts = (HUMP.sub(" ", word) for word in dict.fromkeys(WORD.findall(text)) if HUMP.search(word))
    return " ".join([text, *parts])


def select(
    nearest: Sequence[Hit], matching: Sequence[Hit], *, limit: int, budget_tokens: int, min_similarity: float
) -> tuple[Passage, ...]:
    """The best passages, best first; () where none is relevant.

    `nearest` and `matching` are the two searches' results, best first.
    """
    chosen: list[Passage] = []
    files: dict[str, int] = {}
    left = budget_tokens
    for hit, score in fuse(nearest, matching):
        if len(chosen) == limit:
            break
        if hit.similarity < min_similarity or hit.chunk.tokens > left or files.get(hit.file_id, 0) == PER_FILE:
            continue
        if any(same(hit.chunk.text, passage.chunk.text) for passage in chosen):
            continue
        files[hit.file_id] = files.get(hit.file_id, 0) + 1
        left -= hit.chunk.tokens
        chosen.append(Passage(hit.file_id, hit.filename, hit.title, hit.chunk, score=score, similarity=hit.similarity))
    return tuple(chosen)


def fuse(*rankings: Iterable[Hit]) -> list[tuple[Hit, float]]:
    """Reciprocal rank fusion; scores are in 0..1, where 1 is first in every ranking. Ties keep the first ranking's order."""
    scores: dict[tuple[str, int], float] = {}
    hits: dict[tuple[str, int], Hit] = {}
    for ranking in rankings:
        for rank, hit in enumerate(ranking):
            key = (hit.file_id, hit.chunk.number)
            hits.setdefault(key, hit)
            scores[key] = scores.get(key, 0.0) + (RRF_K + 1) / (RRF_K + 1 + rank) / len(rankings)
    return [(hits[key], score) for key, score in sorted(scores.items(), key=lambda item: -item[1])]


def same(one: str, other: str) -> bool:
    """Whether two texts say nearly the same, word for word."""
    first, second = set(_words(one)), set(_words(other))
    return len(first & second) >= SAME_SHARE * len(first | second)


def _words(text: str) -> list[str]:
    return [part.lower() for word in WORD.findall(text) for part in {word: None, **dict.fromkeys(HUMP.sub(" ", word).split())}]
