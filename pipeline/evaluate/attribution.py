"""Which passages the sentences of an answer are attributed to, against those that hold them: precision and recall of the citations."""

import time
from collections.abc import Iterator, Sequence, Set
from itertools import product
from random import Random

import msgspec

from deployments.core.types import Citation, Passage
from pipeline.citations import CitationFilter
from pipeline.evaluate.references import SEED, References, Task, holds
from pipeline.support import NEAR, SUPPORTED, Evidence, best

CANDIDATES = 10
"""Passages of a task: its gold ones, and the nearest others of the whole pool."""
TOKEN_CHARS = 4
Pair = tuple[int, int]
"""A sentence of an answer and a passage, by place."""


class Answer(msgspec.Struct, frozen=True):
    """Sentences to attribute, one a line, the passages, the pairs that are right, and each sentence's score against each passage.

    `labelled` are the pairs of own sentences and gold passages: what the annotators' labels alone call right, with no word compared.
    """

    lines: tuple[str, ...]
    passages: tuple[Passage, ...]
    right: frozenset[Pair]
    labelled: frozenset[Pair]
    lexical: tuple[tuple[float, ...], ...]
    cosines: tuple[tuple[float, ...], ...]


class Score(msgspec.Struct, frozen=True):
    """Precision and recall of pairs, and the part of the sentences with a source that cite one."""

    precision: float
    recall: float
    sentences: float

    @property
    def f1(self) -> float:
        """What the tuning looks at."""
        return 2 * self.precision * self.recall / (self.precision + self.recall) if self.precision + self.recall else 0.0


def answers(references: References, tasks: Sequence[Task]) -> list[Answer]:
    """The reference answer of each task with as many sentences from answers of other conversations of its collection, mixed.

    The gold passages that hold an own sentence are right for it; for a foreign one none is. What a passage that is no gold one may hold
    as well counts as wrong.
    """
    chance = Random(SEED)
    return [_answer(references, task, tasks, chance) for task in tasks]


def _answer(references: References, task: Task, tasks: Sequence[Task], chance: Random) -> Answer:
    others = [other for other in tasks if other.collection == task.collection and other.conversation != task.conversation]
    own = task.sentences
    foreign = [sentence for other in chance.sample(others, min(3, len(others))) for sentence in other.sentences][: len(own)]
    lines = [*own, *foreign]
    chance.shuffle(lines)
    passages = references.found(task, CANDIDATES, gold=True)
    lines_own = [line for line, sentence in enumerate(lines) if sentence in own]
    labelled = frozenset(product(lines_own, (place for place, passage in enumerate(passages) if passage.filename in task.gold)))
    right = frozenset((line, place) for line, place in labelled if holds(passages[place], lines[line]))
    evidence = Evidence(passages)
    cosines = references.embeddings.of(lines) @ references.vectors(passages).T
    lexical = tuple(tuple(evidence.scores(line)) for line in lines)
    return Answer(tuple(lines), tuple(passages), right, labelled, lexical, tuple(tuple(map(float, row)) for row in cosines))


def filtered(answer: Answer) -> set[Pair]:
    """What the filter cites when the answer streams through it; the citation's own indexes tell the line."""
    places = {str(place): place for place in range(len(answer.passages))}
    relay = CitationFilter(answer.passages, list(places))
    said = "\n".join(answer.lines)
    out = [piece for at in range(0, len(said), TOKEN_CHARS) for piece in relay.feed(said[at : at + TOKEN_CHARS])] + relay.flush()
    text = "".join(piece for piece in out if isinstance(piece, str))
    return {(text.count("\n", 0, piece.start), places[piece.url]) for piece in out if isinstance(piece, Citation)}


def scored(answer: Answer, supported: float, near: float, weight: float) -> set[Pair]:
    """What would be cited with these settings, and the cosine of sentence and passage counting `weight` of the score."""
    return {
        (line, place)
        for line, (words, cosines) in enumerate(zip(answer.lexical, answer.cosines, strict=True))
        if any(words)
        for place in best([(1 - weight) * a + weight * b for a, b in zip(words, cosines, strict=True)], supported, near)
    }


def score(found: Sequence[set[Pair]], expected: Sequence[Set[Pair]]) -> Score:
    """How right it is."""
    hits = [pairs & right for pairs, right in zip(found, expected, strict=True)]
    right = sum(map(len, hits))
    cited, sources = (sum(len({line for line, _ in pairs}) for pairs in many) for many in (hits, expected))
    return Score(right / max(1, sum(map(len, found))), right / sum(map(len, expected)), cited / sources)


def tuned(seen: Sequence[Answer], weight: float) -> tuple[float, float]:
    """The settings with the best F1 on answers to tune on."""
    settings = product((0.4, 0.45, 0.5, 0.55, 0.6, 0.65), (0.6, 0.7, 0.8, 0.9))
    rights = [answer.right for answer in seen]
    return max(settings, key=lambda pair: score([scored(answer, *pair, weight) for answer in seen], rights).f1)


def cost(expected: Sequence[Answer], passages: int = 4, repetitions: int = 3) -> float:
    """CPU milliseconds of the filter for 1,000 tokens of four characters, over some passages each; the least of some repetitions."""
    tokens = sum(len("\n".join(answer.lines)) / TOKEN_CHARS for answer in expected)
    few = [msgspec.structs.replace(answer, passages=answer.passages[:passages]) for answer in expected]
    return min(_seconds(few) for _ in range(repetitions)) / tokens * 1e6


def _seconds(expected: Sequence[Answer]) -> float:
    began = time.process_time()
    for answer in expected:
        filtered(answer)
    return time.process_time() - began


def report(references: References) -> Iterator[str]:
    """The lines of the report."""
    halves = [answers(references, half) for half in references.halves("ANSWERABLE")]
    for weight in (0.0, 0.2, 0.3):
        settings = tuned(halves[0], weight)
        first, second = ([scored(answer, *settings, weight) for answer in half] for half in halves)
        yield f"words {1 - weight:.1f} + cosine {weight:.1f}, best (supported, near) {settings}: {_line(first, halves[0])}"
        yield f"  unseen: {_line(second, halves[1])}"
    for name, half in zip(("tuned on", "unseen"), halves, strict=True):
        pairs, lines = sum(len(answer.right) for answer in half), sum(len(answer.lines) for answer in half)
        counts = f"{name} half, {len(half)} answers, {lines} sentences, {pairs} pairs"
        yield f"the filter (supported {SUPPORTED}, near {NEAR}), {counts}: {_line([filtered(answer) for answer in half], half)}"
    yield f"CPU of the filter: {cost(halves[1]):.1f} ms per 1,000 tokens, over 4 passages"


def _line(found: Sequence[set[Pair]], half: Sequence[Answer]) -> str:
    held, labelled = score(found, [answer.right for answer in half]), score(found, [answer.labelled for answer in half])
    by_words = f"precision {held.precision:.3f}, recall {held.recall:.3f}, {held.sentences:.3f} of the sentences with a source cite one"
    return f"{by_words}; by labels alone precision {labelled.precision:.3f}, {labelled.sentences:.3f} of all sentences"
