from hypothesis import given
from hypothesis import strategies as st

from deployments.core.types import Chunk
from deployments.retriever.search import MAX_TERMS, PER_FILE, Hit, fuse, relevance, same, select, terms, words


def hit(file_id: str, number: int = 0, text: str = "", similarity: float = 0.6, tokens: int = 10) -> Hit:
    return Hit(file_id, f"{file_id}.md", file_id, Chunk(number, text or f"passage {file_id} {number}", (), 0, 1, tokens), similarity)


def files(nearest: list[Hit], matching: list[Hit], question: str = "passage", limit: int = 4, budget: int = 1000, least: float = 0.35):
    found = select(question, nearest, matching, limit=limit, budget_tokens=budget, min_similarity=least)
    return [passage.file_id for passage in found]


def test_a_passage_found_by_both_searches_comes_first():
    a, b, c = hit("a"), hit("b"), hit("c")
    assert files([a, b], [c, b]) == ["b", "a", "c"]


def test_scores_are_between_nought_and_one_and_in_order():
    ranked = [score for _, score in fuse([hit("a", number) for number in range(30)], [hit("a", number) for number in range(30)])]
    assert ranked == sorted(ranked, reverse=True)
    assert 0 < ranked[-1] < ranked[0] <= 1


def test_a_file_with_several_hits_is_preferred_to_one_with_a_single_hit():
    assert files([hit("a"), hit("b", 1), hit("b", 2), hit("b", 3)], [hit("c"), hit("b", 1)])[0] == "b"


def test_no_file_fills_the_result():
    found = files([hit("a", number, text=f"{number} entirely other words {number * 7}") for number in range(5)], [hit("b")])
    assert found.count("a") == PER_FILE
    assert "b" in found


def test_passages_that_say_the_same_are_given_once():
    text = "The same sentence with the very same words stands in both of the files"
    assert files([hit("a", text=text), hit("b", text=text + ".")], []) == ["a"]
    assert same("One two THREE", "three one two")
    assert not same("one two three", "one two four five")


def test_the_budget_and_the_limit_are_kept():
    hits = [hit(name, tokens=40) for name in "abcdef"]
    assert files(hits, [], budget=100) == ["a", "b"]
    assert files(hits, [], limit=3) == ["a", "b", "c"]
    assert files([hit("a", tokens=200), hit("b", tokens=10)], [], budget=100) == ["b"]


def test_nothing_relevant_is_nothing():
    assert files([hit("a", similarity=0.2)], [hit("b", similarity=0.1)], question="sourdough bread") == []
    assert files([], []) == []


def test_holding_the_rare_words_of_the_question_makes_up_for_some_distance():
    holds = hit("a", text="how do I configure the frobnicator", similarity=0.33)
    lacks = hit("b", text="how do I bake bread", similarity=0.36)
    relevant = relevance("how do I configure the frobnicator", [holds, lacks, hit("c"), hit("d")])
    assert relevant[holds.key] > 0.4 > 0.35 > relevant[lacks.key]


def test_text_search_reads_words_only():
    assert terms('Where\'s `BackgroundTasks`? AND (x:*) "quoted" ^2 \\ ;--') == "where s backgroundtasks background tasks and x quoted 2"
    assert terms("?!\"'*") == ""
    assert len(terms(" ".join(f"w{number}" for number in range(1000))).split()) == MAX_TERMS


def test_parts_of_identifiers_are_indexed_beside_the_whole():
    assert words("Use HTTPException and BackgroundTasks") == "Use HTTPException and BackgroundTasks HTTP Exception Background Tasks"


@given(st.text(max_size=200))
def test_any_text_gives_harmless_terms(text: str):
    assert all(
        character.isalnum() or character in "_ " or character.isidentifier() or ("a" + character).isidentifier()
        for character in terms(text)
    )
