"""What a search reads of a question and of a passage, and what it finds; pure functions."""

import re
from collections.abc import Iterator
from functools import lru_cache

import msgspec

from deployments.core.filters import Value
from deployments.core.types import Chunk

MAX_TERMS = 64
"""Terms of a query that the text search reads."""
WORD = re.compile(r"\w+")
HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
UNSPACED = re.compile("[\u0e01-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\U00020000-\U0003ffff]+")
"""Scripts without spaces between words (Thai, Lao, Burmese, Khmer, Japanese, Chinese), and Korean, which joins particles to them."""

Key = tuple[str, int]
"""A chunk's name within its store: file and number."""


class Hit(msgspec.Struct, frozen=True):
    """A chunk as one of the two searches found it; `similarity` is its cosine with the query, `bm25` what the text search gave it."""

    file_id: str
    filename: str
    title: str
    chunk: Chunk
    similarity: float
    attributes: dict[str, Value] = {}
    created_at: int = 0
    bm25: float = 0.0

    @property
    def key(self) -> Key:
        """File and number."""
        return self.file_id, self.chunk.number


Scored = list[tuple[Hit, float]]
"""Hits with their scores in 0..1, best first."""


def terms(text: str) -> str:
    """The first words of a query, each once, identifiers whole and in parts; no operator of any query language survives."""
    found = (part.lower() for word in WORD.findall(text) for part in ([] if UNSPACED.fullmatch(word) else [word]) + list(_parts(word)))
    return " ".join(list(dict.fromkeys(found))[:MAX_TERMS])


def words(text: str) -> str:
    """What the text search indexes: the text, and the parts of its words that are found by themselves."""
    return " ".join([text, *(part for word in dict.fromkeys(WORD.findall(text)) for part in _parts(word))])


@lru_cache(maxsize=4096)
def vocabulary(text: str) -> frozenset[str]:
    """The different words of a text in small letters, whole and in parts; kept, as the same passages are found again."""
    found = set(WORD.findall(text))
    return frozenset(part.lower() for word in found for part in (word, *(() if word[1:].islower() and word.isascii() else _parts(word))))


def _parts(word: str) -> Iterator[str]:
    """The parts of a CamelCase identifier, and the pairs of neighbouring signs where a script has no spaces (as Lucene's CJK analyser)."""
    if HUMP.search(word):
        yield from HUMP.sub(" ", word).split()
    if not word.isascii():
        for run in UNSPACED.findall(word):
            yield from (run[at : at + 2] for at in range(max(len(run) - 1, 1)))
