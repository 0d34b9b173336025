"""Which passages have to do with a question at all; pure."""

import math
from collections.abc import Sequence

from deployments.retriever.search import Hit, Key, terms, vocabulary

COVERAGE_WEIGHT = 0.2
"""How much of a cosine it is worth that a passage holds all rather than half of the question's words, weighted by rarity."""


def relevance(question: str, hits: Sequence[Hit]) -> dict[Key, float]:
    """The cosine of each hit, raised or lowered by its share of the question's words.

    A word's weight falls with the number of hits that hold it, so "how do I" weighs little and a name that no hit holds weighs most.
    """
    held = {hit.key: vocabulary(hit.chunk.text) | vocabulary(" ".join((hit.title, *hit.chunk.headings))) for hit in hits}
    asked = terms(question).split()
    weights = {word: math.log(1 + len(held) / (0.5 + sum(word in words for words in held.values()))) for word in asked}
    whole = sum(weights.values()) or 1.0
    covered = {key: sum(weights[word] for word in asked if word in words) / whole for key, words in held.items()}
    return {hit.key: hit.similarity + COVERAGE_WEIGHT * (covered[hit.key] - 0.5) for hit in hits}
