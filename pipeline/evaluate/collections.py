"""The public collections: passages, questions, and which passages answer which question."""

import csv
import re
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from random import Random
from typing import Any

import msgspec

SPAN = re.compile(r"(_\d+-\d+)?-\d+-\d+$")


class Document(msgspec.Struct, frozen=True):
    """One text of a collection; `file_id` names the file it is a passage of."""

    id: str
    title: str
    text: str
    file_id: str
    created_at: int = 0


class Question(msgspec.Struct, frozen=True):
    """What is asked, after what was said before it: user and assistant in turn."""

    text: str
    history: tuple[tuple[str, str], ...] = ()


class Collection(msgspec.Struct, frozen=True):
    """Documents, questions by id, and the documents that answer each; a question without any is left out."""

    name: str
    documents: tuple[Document, ...]
    questions: Mapping[str, Question]
    relevant: Mapping[str, Set[str]]

    def only(self, questions: Set[str], name: str) -> "Collection":
        """The same documents with some of the questions."""
        return msgspec.structs.replace(self, name=name, questions={id: self.questions[id] for id in self.questions if id in questions})


def scifact(folder: Path) -> Collection:
    """BEIR SciFact: claims and the abstracts that bear on them."""
    documents = tuple(Document(row["_id"], row["title"], row["text"], row["_id"]) for row in lines(folder / "corpus.jsonl"))
    questions = {row["_id"]: Question(row["text"]) for row in lines(folder / "queries.jsonl")}
    return _collection("SciFact", documents, questions, folder)


def mtrag(folder: Path) -> Collection:
    """MTRAG-UN: the last turns of conversations, over passages of web pages and manuals."""
    documents = tuple(Document(row["_id"], row["title"], row["text"], _file(row["_id"])) for row in lines(folder / "pool_corpus.jsonl"))
    questions = {row["_id"]: Question(row["text"], tuple(_history(row["history"]))) for row in lines(folder / "tasks.jsonl")}
    return _collection("mtrag_un", documents, questions, folder)


def halves(collection: Collection, seed: int = 0) -> tuple[Collection, Collection]:
    """Two halves of the questions: one to tune on, one to report on."""
    names = sorted(collection.questions)
    Random(seed).shuffle(names)
    middle = len(names) // 2
    return (
        collection.only(frozenset(names[:middle]), f"{collection.name}, tuning half"),
        collection.only(frozenset(names[middle:]), f"{collection.name}, other half"),
    )


def _collection(name: str, documents: tuple[Document, ...], questions: Mapping[str, Question], folder: Path) -> Collection:
    relevant: dict[str, set[str]] = {}
    with (folder / "qrels.tsv").open() as file:
        for row in csv.DictReader(file, delimiter="\t"):
            if int(row["score"]) > 0:
                relevant.setdefault(row["query-id"], set()).add(row["corpus-id"])
    return Collection(name, documents, {id: question for id, question in questions.items() if id in relevant}, relevant)


def lines(file: Path) -> Iterator[dict[str, Any]]:
    """The records of a JSON Lines file."""
    with file.open() as lines:
        yield from map(msgspec.json.decode, lines)


def _history(history: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    for said in history:
        yield "assistant" if said["speaker"] == "agent" else "user", said["text"]


def _file(passage: str) -> str:
    """`ibmcld_09981-1533-3542` is a span of the file `ibmcld_09981`, `806502664_349-964-0-615` one of `806502664`."""
    return SPAN.sub("", passage)
