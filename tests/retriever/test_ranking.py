"""What two searches found, to the passages of a result."""

import msgspec
import pytest

from deployments.core.types import Chunk, Passage, Principal, Query
from deployments.retriever.diversity import diverse
from deployments.retriever.fusion import fuse
from deployments.retriever.ranking import rank, reordered, select
from deployments.retriever.recency import aged
from deployments.retriever.relevance import relevance
from deployments.retriever.search import Hit
from tests.fakes import FakeEmbeds

NOW = 1_800_000_000
DAY_S = 86_400


def hit(file_id: str, number: int = 0, text: str = "", similarity: float = 0.6, tokens: int = 10, age_s: int = 0) -> Hit:
    chunk = Chunk(number, text or f"passage {file_id} {number}", (), 0, 1, tokens)
    return Hit(file_id, f"{file_id}.md", file_id, chunk, similarity, {"of": file_id}, NOW - age_s)


def query(
    question: str = "passage", limit: int = 4, budget: int = 1000, half_life_s: float | None = None, everything: bool = False
) -> Query:
    principal = Principal("ours", "key", frozenset())
    return Query(principal, "store", question, FakeEmbeds.vector(question), limit, budget, None, half_life_s, everything)


def passages(nearest: list[Hit], matching: list[Hit], asked: Query, least: float = 0.35) -> tuple[Passage, ...]:
    return select(asked, rank(asked, nearest, matching, least), NOW)


def files(nearest: list[Hit], matching: list[Hit], asked: Query | None = None) -> list[str]:
    return [passage.file_id for passage in passages(nearest, matching, asked or query())]


def matched(found: Hit, bm25: float) -> Hit:
    return msgspec.structs.replace(found, bm25=bm25)


def several(file_id: str, count: int) -> list[Hit]:
    return [hit(file_id, number, text=f"{number} entirely other words {number * 7}") for number in range(count)]


def test_a_passage_found_by_both_searches_comes_first():
    a, b, c = hit("a", similarity=0.7), hit("b", similarity=0.6), hit("c", similarity=0.4)
    assert files([a, b], [matched(b, 9), matched(c, 12)]) == ["b", "c", "a"]


def test_each_search_counts_by_its_share():
    near, said = hit("a", similarity=0.8), matched(hit("b", similarity=0.4), 7)
    assert [(found.file_id, round(score, 2)) for found, score in fuse([near], [said], share=0.9)] == [("a", 0.72), ("b", 0.46)]
    assert [(found.file_id, round(score, 2)) for found, score in fuse([near], [said], share=0.2)] == [("b", 0.88), ("a", 0.16)]


def test_scores_are_between_nought_and_one_and_in_order():
    nearest = [hit("a", number, similarity=1 - number / 15) for number in range(30)]
    ranked = [score for _, score in fuse(nearest, [matched(found, 30 - found.chunk.number) for found in nearest])]
    assert ranked == sorted(ranked, reverse=True)
    assert 0 <= ranked[-1] < ranked[0] == 1


def test_no_file_fills_the_result_while_there_are_others():
    assert files(several("a", 9), [hit("b"), hit("c")]).count("a") == 2
    assert files(several("a", 9), [hit("b")]).count("b") == 1
    assert files(several("a", 9), [hit("b")], query(limit=1)) == ["a"]


def test_the_passages_of_a_result_are_in_the_order_of_their_scores():
    scores = [passage.score for passage in passages(several("a", 9), [hit("b"), hit("c")], query(limit=6))]
    assert len(scores) == 6
    assert scores == sorted(scores, reverse=True)


def test_a_store_of_one_file_gives_as_many_passages_as_it_has():
    assert files(several("a", 5), []) == ["a"] * 4


def test_passages_that_say_the_same_are_given_once():
    text = "The same sentence with the very same words stands in both of the files"
    assert files([hit("a", text=text), hit("b", text=text + "."), hit("c", text="Something else")], []) == ["a", "c"]
    assert files([hit("a", text="one two three"), hit("b", text="one two four five")], []) == ["a", "b"]


def test_a_search_for_everything_finds_a_text_in_every_file_that_holds_it():
    assert files([hit("a", text="one two three"), hit("b", text="one two three")], [], query(everything=True)) == ["a", "b"]


def test_a_copy_does_not_count_as_another_passage_of_its_file():
    text = "The same sentence with the very same words stands in both of the files"
    found = [hit("a", 0, text=text), hit("a", 1, text=text), hit("a", 2, text="Something else"), hit("b")]
    assert [kept.key for kept, _ in diverse([(one, 1.0) for one in found], 2)] == [("a", 0), ("a", 2), ("b", 0)]


def test_the_budget_and_the_limit_are_kept():
    hits = [hit(name, tokens=40) for name in "abcdef"]
    assert files(hits, [], query(budget=100)) == ["a", "b"]
    assert files(hits, [], query(limit=3)) == ["a", "b", "c"]
    assert files([hit("a", tokens=200), hit("b", tokens=10)], [], query(budget=100)) == ["b"]
    assert len(files(hits, [], query(limit=1))) == 1


def test_nothing_relevant_is_nothing_unless_everything_is_asked_for():
    far = [hit("a", similarity=0.2)], [hit("b", similarity=0.1)]
    assert files(*far, query("sourdough bread")) == []
    assert sorted(files(*far, query("sourdough bread", everything=True))) == ["a", "b"]
    assert files([], []) == []


def test_holding_the_rare_words_of_the_question_makes_up_for_some_distance():
    holds = hit("a", text="how do I configure the frobnicator", similarity=0.33)
    lacks = hit("b", text="how do I bake bread", similarity=0.36)
    relevant = relevance("how do I configure the frobnicator", [holds, lacks, hit("c"), hit("d")])
    assert relevant[holds.key] > 0.4 > 0.35 > relevant[lacks.key]


def test_of_two_versions_the_newer_one_comes_first_where_age_counts():
    old, new = hit("old", text="the limit is ten files", age_s=90 * DAY_S), hit("new", text="the limit is now twelve, not ten files")
    assert files([old, new], [old, new]) == ["old", "new"]
    assert files([old, new], [old, new], query(half_life_s=30 * DAY_S)) == ["new", "old"]


def test_what_age_takes_is_halved_with_every_half_life_and_never_all():
    scores = [score for _, score in aged([(hit("a", age_s=age), 1.0) for age in (0, DAY_S, 2 * DAY_S, 10**9)], NOW, DAY_S)]
    assert scores == pytest.approx([1.0, 0.9, 0.85, 0.8])
    assert aged([(hit("tomorrow", age_s=-DAY_S), 0.8)], NOW, DAY_S)[0][1] == 0.8


def test_a_passage_keeps_its_attributes_and_its_age():
    (passage,) = passages([hit("a", age_s=DAY_S)], [], query())
    assert (passage.attributes, passage.created_at, passage.similarity) == ({"of": "a"}, NOW - DAY_S, 0.6)


def test_what_a_reranker_has_read_is_in_its_order_before_the_rest():
    scored = [(hit(name), score) for name, score in (("a", 0.9), ("b", 0.8), ("c", 0.7), ("d", 0.6))]
    ordered = reordered(scored, {("a", 0): 0.1, ("b", 0): 0.6})
    assert [found.file_id for found, _ in ordered] == ["b", "a", "c", "d"]
    assert [score for _, score in ordered] == sorted((score for _, score in ordered), reverse=True)
    assert reordered(scored, {}) == scored
