"""Whether the support of what was found tells questions that can be answered from those that can't."""

from collections.abc import Iterator, Sequence
from random import Random

from pipeline.answerable import COVERAGE_WEIGHT, LEAST, answerable
from pipeline.evaluate.references import SEED, References, Task

LIMIT = 4
"""Passages found for a question: as many as a prompt has by default."""
REFUSED = 0.05
"""Part of the questions with an answer that may be refused."""
SAMPLES = 1000
"""Resamples of the interval."""
Scores = tuple[list[float], list[float]]
"""The supports of questions with an answer, and of those without."""


def scores(references: References, tasks: Sequence[Task]) -> Scores:
    """The support of each question."""

    def of(label: str) -> list[float]:
        return [answerable(task.question, references.found(task, LIMIT)) for task in tasks if task.label == label]

    return of("ANSWERABLE"), of("UNANSWERABLE")


def auc(found: Scores) -> float:
    """How often a question with an answer has more support than one without; ties count half."""
    pairs = [(one > other) + 0.5 * (one == other) for one in found[0] for other in found[1]]
    return sum(pairs) / len(pairs)


def interval(found: Scores) -> tuple[float, float]:
    """The middle 95 % of the AUC over resamples of the questions."""
    chance = Random(SEED)
    several = sorted(auc((chance.choices(found[0], k=len(found[0])), chance.choices(found[1], k=len(found[1])))) for _ in range(SAMPLES))
    return several[SAMPLES // 40], several[-SAMPLES // 40]


def threshold(found: Scores) -> float:
    """The highest threshold that refuses no more questions with an answer than may be."""
    return sorted(found[0])[int(REFUSED * len(found[0]))]


def report(references: References) -> Iterator[str]:
    """The lines of the report."""
    seen, unseen = (scores(references, half) for half in references.halves("ANSWERABLE", "UNANSWERABLE"))
    rule = f"cosine + {COVERAGE_WEIGHT} x share of the question's words, best of {LIMIT} passages"
    yield f"support = {rule}; threshold by the tuned half {threshold(seen):.2f}, in force {LEAST}"
    for name, half in (("tuned on", seen), ("unseen", unseen), ("both", (seen[0] + unseen[0], seen[1] + unseen[1]))):
        low, high = interval(half)
        with_answer, without = (f"{sum(score < LEAST for score in part)} of {len(part)}" for part in half)
        yield f"{name}: AUC {auc(half):.3f} (95 % {low:.2f} to {high:.2f}); refused {with_answer} with an answer, {without} without"
