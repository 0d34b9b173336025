"""What is left of the sentences that support an answer when passages are cut to a part of their tokens."""

import time
from collections.abc import Iterator, Sequence

from deployments.core.types import Passage
from pipeline.abridgement import abridge
from pipeline.evaluate.references import References, Task, content
from pipeline.support import SENTENCE

SHARE = 0.5
"""Of the tokens that may stay."""
HELD = 0.5
"""Least part of a reference sentence's content words that one sentence of a gold passage must hold to be its support."""


def supports(task: Task, passages: Sequence[Passage]) -> list[tuple[frozenset[str], int]]:
    """The content words of each supported reference sentence, and how many of them its best sentence in the gold passages holds."""
    gold = [words for passage in passages if passage.filename in task.gold for words in _sentences(passage)]
    wanted = [content(sentence) for sentence in task.sentences]
    held = [(words, max((len(words & other) for other in gold), default=0)) for words in wanted if len(words) >= 3]
    return [(words, most) for words, most in held if most >= HELD * len(words)]


def recall(references: References, tasks: Sequence[Task], limit: int) -> tuple[float, int, float, float]:
    """The part of the supports that are kept, how many there are, the part of the tokens that are left, and milliseconds a question."""
    kept = total = left = before = 0
    spent = 0.0
    for task in tasks:
        passages = references.found(task, limit, gold=True)
        tokens = sum(passage.chunk.tokens for passage in passages)
        began = time.process_time()
        short = abridge(task.question, passages, int(SHARE * tokens), task.earlier)
        spent += time.process_time() - began
        there = [words for passage in short for words in _sentences(passage)]
        wanted = supports(task, passages)
        kept += sum(any(len(words & other) >= most for other in there) for words, most in wanted)
        total += len(wanted)
        before, left = before + tokens, left + sum(passage.chunk.tokens for passage in short)
    return kept / total, total, left / before, spent / len(tasks) * 1000


def report(references: References) -> Iterator[str]:
    """The lines of the report."""
    seen, unseen = references.halves("ANSWERABLE")
    for limit in (20, 10, 5):
        for name, half in (("tuned on", seen), ("unseen", unseen)):
            share, total, left, spent_ms = recall(references, half, limit)
            told = f"support recall {share:.3f} of {total} at {left:.3f} of the tokens, {spent_ms:.1f} ms CPU"
            yield f"{limit} passages abridged to half, {name} half, {len(half)} questions: {told}"


def _sentences(passage: Passage) -> list[frozenset[str]]:
    return [content(part) for part in SENTENCE.split(passage.chunk.text) if part.strip()]
