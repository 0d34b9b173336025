"""Passages that say different things, from different files; pure."""

from collections import Counter
from collections.abc import Iterator

from deployments.retriever.search import Hit, Scored, vocabulary

SAME_SHARE = 0.8
"""Two passages sharing this part of their words (Jaccard) are one."""


def diverse(scored: Scored, per_file: int, copies: bool = False) -> Iterator[tuple[Hit, float]]:
    """The hits in their order, each text once unless `copies` are wanted.

    Those beyond `per_file` of one file wait until all other files have had their turn.
    """
    taken: list[frozenset[str]] = []
    files: Counter[str] = Counter()
    waiting: Scored = []
    for hit, score in scored:
        if not copies:
            words = vocabulary(hit.chunk.text)
            if any(_same(words, others) for others in taken):
                continue
            taken.append(words)
        files[hit.file_id] += 1
        if files[hit.file_id] > per_file:
            waiting.append((hit, score))
        else:
            yield hit, score
    yield from waiting


def _same(one: frozenset[str], other: frozenset[str]) -> bool:
    if min(len(one), len(other)) < SAME_SHARE * max(len(one), len(other)):
        return False
    return len(one & other) >= SAME_SHARE * len(one | other)
