"""The conversations of mtRAG-UN with their reference answers: which sentence is said by which passage, and what is found for a question."""

import re
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import numpy as np

from deployments.core.estimate import estimate
from deployments.core.types import Chunk, Passage, Vectors
from pipeline.evaluate.embeddings import Embeddings
from pipeline.support import STOP

SEED = 7
"""Of the halves; the tuning sees the first only."""
HELD = 2 / 3
"""The part of a sentence's content words that a passage must hold to be a source of it."""
SENTENCE = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[^a-z])|\n+")
SPAN = re.compile(r"(_\d+-\d+)?-\d+-\d+$")
"""What a passage's id adds to that of its document."""


class Task(msgspec.Struct, frozen=True):
    """A question at the end of a conversation, the reference answer, the ids of its gold passages, and whether it can be answered."""

    id: str
    conversation: str
    collection: str
    question: str
    earlier: tuple[str, ...]
    reference: str
    gold: frozenset[str]
    label: str

    @property
    def sentences(self) -> list[str]:
        """The sentences of the reference answer."""
        return [part.strip() for part in SENTENCE.split(self.reference) if part.strip()]


class References:
    """The tasks over their pool of passages, with the vectors of both."""

    def __init__(self, folder: Path, embeddings: Embeddings):
        pool = [msgspec.json.decode(line) for line in (folder / "pool_corpus.jsonl").read_bytes().splitlines()]
        self.tasks = [_task(msgspec.json.decode(line)) for line in (folder / "tasks.jsonl").read_bytes().splitlines()]
        self.embeddings = embeddings
        self._passages = [_passage(entry) for entry in pool]
        self._places = {entry["_id"]: place for place, entry in enumerate(pool)}
        self._vectors = embeddings.of([f"{passage.title}\n{passage.chunk.text}" for passage in self._passages])
        questions = embeddings.of([task.question for task in self.tasks])
        self._similarities = dict(zip((task.id for task in self.tasks), questions @ self._vectors.T, strict=True))

    def halves(self, *labels: str) -> tuple[list[Task], list[Task]]:
        """The tasks of some labels: those to tune on, and the unseen. A conversation is in one half."""
        conversations = sorted({task.conversation for task in self.tasks})
        Random(SEED).shuffle(conversations)
        first = set(conversations[: len(conversations) // 2])
        chosen = [task for task in self.tasks if task.label in labels]
        return [task for task in chosen if task.conversation in first], [task for task in chosen if task.conversation not in first]

    def found(self, task: Task, limit: int, *, gold: bool = False) -> list[Passage]:
        """The passages nearest to the question, nearest first; with all `gold` ones among them where that is asked for."""
        similarities = self._similarities[task.id]
        order = [int(place) for place in np.argsort(-similarities, kind="stable")]
        wanted = {self._places[name] for name in task.gold} if gold else set[int]()
        for place in order:
            if len(wanted) >= limit:
                break
            wanted.add(place)
        scored = ((place, float(similarities[place])) for place in order if place in wanted)
        return [msgspec.structs.replace(self._passages[place], score=score, similarity=score) for place, score in scored]

    def vectors(self, passages: Sequence[Passage]) -> Vectors:
        """The vectors of some passages of the pool."""
        return self._vectors[[self._places[passage.filename] for passage in passages]]


def content(text: str) -> frozenset[str]:
    """The content words of a text, each cut to its first six letters.

    Another measure than the one under test: no weights, no pairs, no windows, no names.
    """
    return frozenset(word[:6] for word in re.findall(r"\w+", text.lower()) if len(word) > 2 and word not in STOP)


def holds(passage: Passage, sentence: str) -> bool:
    """Whether the sentence may be taken from the passage."""
    words = content(sentence)
    return len(words) >= 3 and len(words & content(f"{passage.title} {passage.chunk.text}")) >= HELD * len(words)


def _task(entry: dict[str, Any]) -> Task:
    return Task(
        id=entry["_id"],
        conversation=entry["conversation_id"],
        collection=entry["collection"],
        question=entry["text"],
        earlier=tuple(said["text"] for said in entry["history"] if said["speaker"] == "user"),
        reference=entry["targets"][0],
        gold=frozenset(entry["gold_ids"]),
        label=entry["answerability"][0],
    )


def _passage(entry: dict[str, Any]) -> Passage:
    name, text = entry["_id"], entry["text"]
    chunk = Chunk(0, text, (), 0, len(text), estimate(text))
    return Passage(SPAN.sub("", name), name, entry["title"], chunk, 0.0, 0.0)
