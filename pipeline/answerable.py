"""How well the passages that were found speak to a question; pure and without a model."""

from collections.abc import Sequence

from deployments.core.types import Passage
from pipeline.support import Asked, Words

COVERAGE_WEIGHT = 0.2
"""How much of a cosine it is worth that a passage holds all words of the question rather than none."""
LEAST = 0.37
"""Support under which a question is not answered, where the policy is to say so; it refuses 5 % of those with an answer (tuned half)."""
UNANSWERED = "I could not find an answer to that in the documents."
"""What is said then."""


def answerable(question: str, passages: Sequence[Passage]) -> float:
    """The support of the best passage: its cosine with the question, and its share of the question's words; 0 without a passage.

    A word counts by its rarity among the passages.
    """
    held = [Words("\n".join((passage.title, *passage.chunk.headings, passage.chunk.text))).weights for passage in passages]
    asked = Asked(question, held)
    scores = (passage.similarity + COVERAGE_WEIGHT * asked.share(words) for passage, words in zip(passages, held, strict=True))
    return max(scores, default=0.0)
