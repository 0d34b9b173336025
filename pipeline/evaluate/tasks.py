"""What each step after the fusion is for, as a task of its own: the same search with the step and without it."""

from collections.abc import Callable, Mapping, Sequence
from random import Random

import msgspec

from deployments.core.types import Passage
from deployments.retriever.diversity import diverse
from deployments.retriever.fusion import fuse
from deployments.retriever.ranking import FILE_SHARE, rank, select
from deployments.retriever.recency import aged
from deployments.retriever.search import Hit, Scored
from pipeline.evaluate.collections import Collection
from pipeline.evaluate.embeddings import Embeddings
from pipeline.evaluate.finding import Found, find, names
from pipeline.evaluate.measures import ndcg, recall

PLACES = 4
"""Passages in a prompt."""
COPIES = 3
DAY_S = 86_400.0
HALF_LIFE_S = 30 * DAY_S
Step = Callable[[Found, Scored], Sequence[Hit]]


class Trial(msgspec.Struct, frozen=True):
    """One task: what is measured, over how many questions, without the step and with it."""

    task: str
    measure: str
    questions: int
    without: float
    with_step: float


def duplicates(collection: Collection, embeddings: Embeddings) -> Trial:
    """Of each question's best passage the store holds three edited copies: how much of what answers is among the passages of a prompt?"""
    random = Random(0)
    originals = {sorted(collection.relevant[name])[0] for name in collection.questions}
    by_id = {document.id: document for document in collection.documents}
    copies = tuple(
        msgspec.structs.replace(by_id[name], id=f"{name}~{number}", text=_edited(by_id[name].text, random), file_id=f"{name}~{number}")
        for name in sorted(originals)
        for number in range(COPIES)
    )
    crowded = msgspec.structs.replace(collection, documents=(*collection.documents, *copies))
    found = find(crowded, {name: question.text for name, question in collection.questions.items()}, embeddings)
    once = _share(crowded, found, lambda one, fused: _hits(_select(one, fused)))
    return Trial("duplicates", f"recall in {PLACES} passages", len(found), _share(crowded, found, _first), once)


def long_document(pages: Collection, found: Mapping[str, Found]) -> list[Trial]:
    """Pages of up to thousands of passages: how many of those that answer are in a prompt, and how many prompts are from one page?"""
    answering = {document.id: document.file_id for document in pages.documents}

    def files(one: Found, per_file: int) -> list[str]:
        return [hit.file_id for hit, _ in diverse(fuse(one.nearest, one.matching), per_file)][:PLACES]

    def share(per_file: int) -> float:
        wanted = {name: {answering[id] for id in pages.relevant[name]} for name in found}
        return sum(recall(files(one, per_file), wanted[name], PLACES) for name, one in found.items()) / len(found)

    def alone(per_file: int) -> float:
        return sum(len(set(files(one, per_file))) == 1 for one in found.values())

    half = PLACES // FILE_SHARE
    return [
        Trial("long documents", f"pages that answer in {PLACES} passages", len(found), share(PLACES), share(half)),
        Trial("long documents", "prompts from one page", len(found), alone(PLACES), alone(half)),
    ]


def recency(versions: Collection, embeddings: Embeddings) -> Trial:
    """Old and new versions of changed passages are both there: is the newer one first, a day after the change?"""
    found = find(versions, {name: question.text for name, question in versions.questions.items()}, embeddings)
    changed = {document.id: document.created_at for document in versions.documents}

    def first(step: Callable[[Scored, float], Scored]) -> float:
        right = 0
        for name, one in found.items():
            (newer,) = versions.relevant[name]
            ranked = step(fuse(one.nearest, one.matching), changed[newer] + DAY_S)
            right += names(versions, [ranked[0][0]]) == [newer]
        return right / len(found)

    newest = first(lambda fused, now: aged(fused, now, HALF_LIFE_S))
    return Trial("two versions", "newer one first", len(found), first(lambda fused, now: fused), newest)


def ageless(collection: Collection, found: Mapping[str, Found]) -> Trial:
    """What it costs to count age where it means nothing: every document of a random age up to ten half-lives."""
    random = Random(0)
    ages = [random.random() * 10 * HALF_LIFE_S for _ in collection.documents]

    def mean(step: Step) -> float:
        ranked = {name: names(collection, step(one, fuse(one.nearest, one.matching))) for name, one in found.items()}
        return sum(ndcg(ranking, collection.relevant[name]) for name, ranking in ranked.items()) / len(ranked)

    def by_age(one: Found, fused: Scored) -> Sequence[Hit]:
        dated = [(msgspec.structs.replace(hit, created_at=int(-ages[hit.chunk.number])), score) for hit, score in fused]
        return [hit for hit, _ in aged(dated, 0, HALF_LIFE_S)]

    return Trial("random ages", "nDCG@10", len(found), mean(lambda one, fused: [hit for hit, _ in fused]), mean(by_age))


def grounding(collection: Collection, found: Mapping[str, Found], strangers: Mapping[str, Found], least: float) -> list[Trial]:
    """Real questions about a documentation and questions about anything else: which pages come first, and who gets any passage?"""

    def prompts(asked: Mapping[str, Found], least: float) -> dict[str, list[str]]:
        return {name: names(collection, _hits(_prompt(one, least))) for name, one in asked.items()}

    def right(places: int, least: float) -> float:
        return sum(bool(collection.relevant[name] & set(found[:places])) for name, found in prompts(found, least).items())

    def answered(least: float) -> float:
        return sum(map(bool, prompts(strangers, least).values()))

    cosine = sum(any(hit.similarity >= least for hit in one.nearest[:1]) for one in strangers.values())
    return [
        Trial("words in the relevance cut", "off topic with passages", len(strangers), cosine, answered(least)),
        Trial("relevance cut", "right page first", len(found), right(1, -2), right(1, least)),
        Trial("relevance cut", f"right page in {PLACES}", len(found), right(PLACES, -2), right(PLACES, least)),
        Trial("relevance cut", "off topic with passages", len(strangers), answered(-2), answered(least)),
    ]


def emptied(found: Mapping[str, Found], least: float) -> int:
    """Questions that have an answer in the store, and of whose passages the relevance cut leaves none."""
    return sum(not _prompt(one, least) for one in found.values())


def _prompt(one: Found, least: float) -> Sequence[Passage]:
    query = one.query(PLACES)
    return select(query, rank(query, one.nearest[:30], one.matching[:30], least), 0)


def _select(one: Found, fused: Scored) -> Sequence[Passage]:
    return select(one.query(PLACES), fused, 0)


def _hits(passages: Sequence[Passage]) -> list[Hit]:
    return [Hit(one.file_id, one.filename, one.title, one.chunk, one.similarity) for one in passages]


def _first(one: Found, fused: Scored) -> Sequence[Hit]:
    return [hit for hit, _ in fused[:PLACES]]


def _share(collection: Collection, found: Mapping[str, Found], step: Step) -> float:
    """The mean part of what answers a question among the passages of its prompt; a copy counts as its original."""
    shares = [
        recall(
            [name.split("~")[0] for name in names(collection, step(one, fuse(one.nearest, one.matching)))],
            collection.relevant[name],
            PLACES,
        )
        for name, one in found.items()
    ]
    return sum(shares) / len(shares)


def _edited(text: str, random: Random) -> str:
    """Nearly the same text: one word in twenty is gone."""
    return " ".join(word for word in text.split(" ") if random.random() > 0.05)
