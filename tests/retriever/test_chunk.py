from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deployments.core.config import Settings
from deployments.embedder.tokens import MAX_TOKENS, Tokens, tokens
from deployments.retriever.chunk import TOKEN_CHARACTERS, chunk, embedded_text
from deployments.retriever.document import Document, Unreadable
from deployments.retriever.parse import SUFFIXES, parse
from tests.papers import docx, lines, paragraph, pdf


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


def test_records_never_share_a_passage_and_keep_their_attributes():
    document = parse(b"text,kind\nOne.,a\nTwo.,b\n", "a.csv")
    assert [(one.text, one.attributes["kind"]) for one in chunk(document, 100, words)] == [
        ("text: One.\nkind: a", "a"),
        ("text: Two.\nkind: b", "b"),
    ]
    long = " ".join(["word"] * 50)
    parts = chunk(parse(f'[{{"id": 7, "text": "{long}"}}]'.encode(), "a.json"), 20, words)
    assert len(parts) > 2
    assert all(one.attributes == {"id": 7} for one in parts)


@pytest.mark.parametrize(
    ("source", "filename", "columns"),
    [
        ("# T\n\n| name | price |\n|---|---|\n" + "| wheel | 12 |\n" * 20, "a.md", "name | price"),
        ("<h1>T</h1><table><tr><th>name<th>price" + "<tr><td>wheel<td>12" * 20 + "</table>", "a.html", "name | price"),
    ],
)
def test_parts_of_a_table_end_at_rows_and_name_its_columns(source: str, filename: str, columns: str):
    document, found = chunks(source, limit=30, filename=filename)
    assert len(found) > 2
    assert found[0].headings == ("T",)
    assert {one.headings for one in found[1:]} == {("T", columns)}
    assert embedded_text(document.title, found[1]).startswith(f"T > {columns}\n")
    assert {row.strip("| ") for one in found[1:] for row in one.text.splitlines()} == {"wheel | 12"}


def test_parts_of_a_definition_end_at_methods_and_name_what_they_are_in():
    source = "class Wheel:\n" + "\n".join(
        f"    def turn{number}(self):\n        a = 1\n\n        return a + {number}\n" for number in range(6)
    )
    _, found = chunks(source, limit=20, filename="a.py")
    assert [one.headings for one in found] == [()] + [("class Wheel",)] * (len(found) - 1)
    assert all(one.text.lstrip().startswith(("class", "def")) for one in found)


def test_small_definitions_go_together_and_none_is_cut_that_fits():
    source = "\n\n".join(f"def turn{number}(water):\n    a = 1\n\n    return a" for number in range(9))
    _, found = chunks(source, limit=20, filename="a.py")
    assert all(one.text.startswith("def") and one.text.endswith("return a") for one in found)
    assert len(found) < 9


@pytest.fixture(scope="module")
def embedder() -> Tokens:
    return tokens(Settings())


@pytest.mark.parametrize(
    "text", ["水车转动。水从上面流下来，" * 200, "กังหันน้ำหมุน" * 300, "पानी चक्का घुमाता है। " * 200, "x" * 20_000, "👩‍🚀" * 500]
)
def test_any_script_is_cut_within_the_bounds(text: str, embedder: Tokens):
    document = parse(text.encode(), "a.txt")
    found = chunk(document, 100, embedder.count)
    assert len(found) > 1
    assert all(one.tokens <= 100 and len(one.text) <= 100 * TOKEN_CHARACTERS for one in found)
    assert "".join("".join(one.text.split()) for one in found) == "".join(document.text.split())
    assert not any(one.text[0] in "\u200d\u0e33\u0e34\u0e49\u093e" for one in found)


def test_what_is_embedded_is_what_the_model_reads(embedder: Tokens):
    headings = "\n\n".join(f"{'#' * level} A heading of the level {level} about water and wheels" for level in range(1, 6))
    document = parse(f"{headings}\n\n{'Water turns the wheel. ' * 200}".encode(), "a.md")
    for one in chunk(document, 512, embedder.count, MAX_TOKENS - 2):
        assert embedder.count(embedded_text(document.title, one)) <= MAX_TOKENS - 2


def checked(document: Document, limit: int) -> None:
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


@given(
    st.text(alphabet=st.sampled_from('# -`\n\nab.c|1,"{}[]:()\t水।👩\u200d'), min_size=1, max_size=400),
    st.sampled_from(sorted(SUFFIXES - {".pdf", ".docx"})),
    st.integers(1, 30),
)
@example('[{"a": "b c"}, 1]', ".json", 1)
@example('{"a": "b c"}\n"x y"', ".jsonl", 1)
def test_spans_are_exact_ordered_and_bounded(source: str, suffix: str, limit: int):
    try:
        document = parse(source.encode(), f"a{suffix}")
    except Unreadable:
        return
    checked(document, limit)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from(["", "Kop1", "Lijst", "Bron"]), st.text("ab c.\n", max_size=60)), max_size=8), st.integers(1, 30))
def test_spans_of_papers_are_exact_as_well(paragraphs: list[tuple[str, str]], limit: int):
    sized = [(24 if style else 11, text.replace("\n", " ")) for style, text in paragraphs]
    body = "".join(paragraph(text, style) for style, text in paragraphs)
    for content, filename in ((docx(body), "a.docx"), (pdf(lines(*sized)), "a.pdf")):
        try:
            document = parse(content, filename)
        except Unreadable:
            continue
        checked(document, limit)


def test_real_pages_are_cut_within_the_bound(data: Path):
    for path in sorted((data / "docs_fastapi" / "docs" / "tutorial").rglob("*.md")):
        document = parse(path.read_bytes(), path.name)
        for one in chunk(document, 120, words):
            assert document.text[one.start : one.end] == one.text
            assert one.tokens <= 120


def test_tickets_are_records_with_their_labels(data: Path):
    for path, label, count in (
        (data / "tickets_banking77" / "train.csv", "category", 10_003),
        (data / "tickets_insurance" / "train.tsv", "label", 68),
    ):
        document = parse(path.read_bytes(), path.name)
        found = chunk(document, 200, words)
        assert len(found) == count
        assert all(
            document.text[one.start : one.end] == one.text and one.text.endswith(f"{label}: {one.attributes[label]}") for one in found
        )


def test_code_of_the_documentation_is_cut_along_definitions(data: Path):
    for path in sorted((data / "docs_fastapi" / "docs_src").rglob("*.py"))[:200]:
        try:
            checked(parse(path.read_bytes(), path.name), 60)
        except Unreadable as error:
            assert error.wire_code == "file_empty"  # noqa: PT017
