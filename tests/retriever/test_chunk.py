from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from deployments.retriever.chunk import chunk, embedded_text
from deployments.retriever.document import Unreadable
from deployments.retriever.parse import parse


def words(text: str) -> int:
    return len(text.split())


def chunks(source: str, limit: int = 20, filename: str = "a.md"):
    document = parse(source.encode(), filename)
    return document, chunk(document, limit, words)


PROSE = "One two three four five six seven eight nine ten."


def test_a_chunk_is_a_section_with_its_title_path():
    long = "\n\n".join([PROSE] * 7)
    _, found = chunks(f"# Title\n\n{long}\n\n## Sub\n\n{long}\n\n# Next\n\nShort.", limit=80)
    assert [(one.headings, one.text.split("\n")[0]) for one in found] == [
        (("Title",), "# Title"),
        (("Title", "Sub"), "## Sub"),
        (("Next",), "# Next"),
    ]


def test_short_sections_go_together_under_what_they_share():
    _, found = chunks("# Title\n\nIntro.\n\n## One\n\nFirst.\n\n## Two\n\nSecond.")
    assert [(one.headings, one.text) for one in found] == [(("Title",), "# Title\n\nIntro.\n\n## One\n\nFirst.\n\n## Two\n\nSecond.")]


def test_code_lists_and_tables_stay_whole_where_they_fit():
    code = "```python\n" + "\n\n".join(f"x{number} = {number}" for number in range(5)) + "\n```"
    _, found = chunks(f"{PROSE}\n\n{code}\n\n{PROSE}")
    assert any(one.text == code for one in found)


def test_a_block_over_the_limit_is_cut_at_sentences_then_words_then_characters():
    _, found = chunks(" ".join([PROSE] * 5))
    assert all(one.text.endswith("ten.") for one in found)
    _, found = chunks(" ".join(["word"] * 50))
    assert [one.tokens for one in found] == [20, 20, 10]
    document = parse(b"x" * 1000, "a.txt")
    assert "".join(one.text for one in chunk(document, 100, len)) == "x" * 1000


def test_the_embedded_text_begins_with_the_title_path():
    _, found = chunks("# Title\n\n## Sub\n\nText.")
    assert embedded_text("Title", found[0]) == "Title > Sub\n# Title\n\n## Sub\n\nText."


@given(
    st.text(alphabet=st.sampled_from("# -`\n\nab.c|1"), min_size=1, max_size=400),
    st.sampled_from(["a.md", "a.txt", "a.rst", "a.html"]),
    st.integers(1, 30),
)
def test_spans_are_exact_ordered_and_bounded(source: str, filename: str, limit: int):
    try:
        document = parse(source.encode(), filename)
    except Unreadable:
        return
    found = chunk(document, limit, words)
    assert found == chunk(document, limit, words)
    at = 0
    for number, one in enumerate(found):
        assert one.number == number
        assert document.text[one.start : one.end] == one.text
        assert at <= one.start < one.end
        assert one.tokens == words(one.text) <= limit
        at = one.end
    for block in document.blocks:
        if block.kind != "heading":
            covered = [one for one in found if one.start < block.end and one.end > block.start]
            assert "".join(document.text[block.start : block.end].split()) in "".join("".join(one.text.split()) for one in covered)


def test_real_pages_are_cut_within_the_bound(data: Path):
    for path in sorted((data / "docs_fastapi" / "docs" / "tutorial").rglob("*.md")):
        document = parse(path.read_bytes(), path.name)
        for one in chunk(document, 120, words):
            assert document.text[one.start : one.end] == one.text
            assert one.tokens <= 120
