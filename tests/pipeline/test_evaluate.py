"""The benchmark's own arithmetic, and its steps over a collection that is made up here."""

from collections.abc import Sequence
from math import log2
from pathlib import Path

import numpy as np
import pytest

from deployments.core.types import Vectors
from pipeline.evaluate import tasks
from pipeline.evaluate.collections import Collection, Document, Question, halves, mtrag, scifact
from pipeline.evaluate.embeddings import Embeddings
from pipeline.evaluate.finding import find, names
from pipeline.evaluate.measures import gain, ndcg, recall, score
from tests.fakes import FakeEmbeds

MILLS = Collection(
    "mills",
    tuple(
        Document(name, "Mills", text, name)
        for name, text in {
            "head": "A headrace brings the water of the river to the wheel",
            "tail": "A tailrace leads the used water away from the wheel",
            "bread": "Sourdough bread rises for four hours at room temperature",
            "flour": "Flour is ground between two stones that the wheel turns",
        }.items()
    ),
    {
        "q1": Question("what brings water to the wheel"),
        "q2": Question("how long does bread rise", (("user", "bread"), ("assistant", "yes"))),
    },
    {"q1": {"head", "tail"}, "q2": {"bread"}},
)


@pytest.fixture
def embeddings(tmp_path: Path) -> Embeddings:
    return Embeddings(tmp_path, "words", bags)


def bags(texts: Sequence[str]) -> Vectors:
    return np.stack([FakeEmbeds.vector(text) for text in texts])


def test_ndcg_and_recall_are_those_of_the_books():
    assert ndcg(["a", "b"], {"a", "b"}) == 1
    assert ndcg(["x", "a"], {"a"}) == pytest.approx(1 / log2(3))
    assert ndcg(["a", "x", "b"], {"a", "b"}) == pytest.approx((1 + 1 / 2) / (1 + 1 / log2(3)))
    assert ndcg(["x"] * 10 + ["a"], {"a"}) == 0 == ndcg([], {"a"})
    assert (recall(["x", "a"], {"a", "b"}, 1), recall(["x", "a"], {"a", "b"}, 2)) == (0, 0.5)
    result = score({"q": ["a"], "p": []}, {"q": {"a"}, "p": {"b"}})
    assert (result.ndcg10, result.recall100, result.queries, result.empty) == (0.5, 0.5, 2, 1)


def test_a_difference_comes_with_the_interval_it_may_lie_in():
    relevant = {str(number): {"a"} for number in range(40)}
    best, worst = {name: ["a"] for name in relevant}, {name: ["b"] for name in relevant}
    assert gain(best, worst, relevant) == (1, 1, 1)
    mixed = {name: ["a"] if int(name) % 2 else ["b"] for name in relevant}
    mean, low, high = gain(mixed, worst, relevant)
    assert 0 < low < mean == 0.5 < high < 1


def test_what_is_embedded_once_is_read_the_next_time(tmp_path: Path):
    texts = ["one", "a much longer text than that", "two words"]
    assert Embeddings(tmp_path, "words", bags).of(texts).tolist() == bags(texts).tolist()

    def never(texts: Sequence[str]) -> Vectors:
        raise AssertionError(texts)

    assert Embeddings(tmp_path, "words", never).of(texts).tolist() == bags(texts).tolist()


def test_both_searches_of_the_real_index_find_documents_under_their_own_files(embeddings: Embeddings):
    found = find(MILLS, {name: question.text for name, question in MILLS.questions.items()}, embeddings)
    assert names(MILLS, found["q1"].nearest)[0] == names(MILLS, found["q1"].matching)[0] == "head"
    assert found["q2"].matching[0].file_id == "bread"


def test_copies_leave_room_for_what_else_answers(embeddings: Embeddings):
    trial = tasks.duplicates(MILLS, embeddings)
    assert (trial.questions, trial.with_step) == (2, 1)
    assert trial.without < 1


def test_one_long_document_leaves_room_for_the_others(embeddings: Embeddings):
    asked = "what brings water to the wheel"
    long = [Document(f"long{n}", "", f"{asked} a{n} b{n} c{n}", "long") for n in range(8)]
    store = Collection("store", (*MILLS.documents, *long), {"q1": MILLS.questions["q1"]}, {"q1": {"head"}})
    found = find(store, {"q1": store.questions["q1"].text}, embeddings)
    pages, alone = tasks.long_document(store, found)
    assert (pages.without, pages.with_step) == (0, 1)
    assert (alone.without, alone.with_step) == (1, 0)


def test_age_puts_the_newer_of_two_versions_first_and_costs_where_it_means_nothing(embeddings: Embeddings):
    old = Document("old", "Limits", "the limit of the wheel is ten files", "old", 0)
    new = Document("new", "Limits", "the limit of the wheel is twelve files these days", "new", 90 * 86_400)
    found = tasks.recency(Collection("versions", (old, new), {"q": Question("limit of the wheel files")}, {"q": {"new"}}), embeddings)
    assert (found.without, found.with_step) == (0, 1)
    claims = find(MILLS, {name: question.text for name, question in MILLS.questions.items()}, embeddings)
    assert 0 < tasks.ageless(MILLS, claims).with_step <= tasks.ageless(MILLS, claims).without


def test_halves_are_the_same_every_time_and_share_no_question():
    first, second = halves(MILLS)
    assert sorted([*first.questions, *second.questions]) == ["q1", "q2"]
    assert halves(MILLS)[0].questions == first.questions


def test_the_public_collections_hold_what_they_are_known_to_hold(data: Path):
    claims, turns = scifact(data / "scifact"), mtrag(data / "mtrag_un")
    assert (len(claims.documents), len(claims.questions)) == (5183, 809)
    assert (len(turns.documents), len(turns.questions)) == (1152, 118)
    known = {document.id for document in turns.documents}
    assert all(relevant <= known for relevant in turns.relevant.values())
    assert len({document.file_id for document in turns.documents}) < len(turns.documents)
