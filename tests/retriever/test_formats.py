"""Formats beside prose: records, source code, PDF and DOCX."""

import json

import pytest

from deployments.core.filters import Compare, holds
from deployments.retriever.document import Document, Unreadable
from deployments.retriever.parse import parse
from tests.papers import LOCKED, docx, lines, packed, paragraph, pdf, table

CODE = """\
# The wheel.
import race


# Turns it.
@cached
def turn(water):
    if water:

        return race.speed(water)
    return 0


class Wheel:
    spokes = 8

    def stop(self):
        pass
"""


def shape(document: Document) -> list[tuple[str, str]]:
    return [(block.kind, document.text[block.start : block.end]) for block in document.blocks]


def reason(content: bytes, filename: str) -> tuple[str, str]:
    with pytest.raises(Unreadable) as caught:
        parse(content, filename)
    return caught.value.wire_code, caught.value.message


def test_a_row_is_a_record_with_its_short_fields_as_attributes():
    long = "turns " * 50
    document = parse(f'name,code,price,note\nwheel,007,12.50,"oak, {long}"\nrace,8,3,\n\n'.encode(), "parts.csv")
    assert shape(document) == [
        ("record", f"name: wheel\ncode: 007\nprice: 12.5\nnote: oak, {long.strip()}"),
        ("record", "name: race\ncode: 8\nprice: 3"),
    ]
    assert [block.attributes for block in document.blocks] == [
        {"name": "wheel", "code": "007", "price": 12.5},
        {"name": "race", "code": "8", "price": 3},
    ]
    assert holds(Compare("gt", "price", 10), document.blocks[0].attributes)


def test_other_separators_quoted_lines_and_missing_names_are_understood():
    assert shape(parse(b"a;b\n1;2", "x.csv")) == [("record", "a: 1\nb: 2")]
    assert shape(parse(b"text\tlabel\nturn  it\twheel", "x.tsv")) == [("record", "text: turn  it\nlabel: wheel")]
    assert shape(parse(b'a,b\r\n"one\r\ntwo",3\r\n', "x.csv")) == [("record", "a: one\ntwo\nb: 3")]
    assert shape(parse(b"1,x\n2,y", "x.csv"))[1] == ("record", "column 1: 2\ncolumn 2: y")
    assert shape(parse(b"only\none", "x.csv")) == [("record", "one")]


def test_json_is_a_record_a_line_or_an_element_with_nested_fields_named_by_their_path():
    record = {"id": 7, "open": True, "who": {"name": "Ann", "tags": ["a", 2]}, "none": None, "log": [{"at": 1.5}]}
    text = "id: 7\nopen: true\nwho.name: Ann\nwho.tags: a, 2\nlog.1.at: 1.5"
    attributes = {"id": 7, "open": True, "who.name": "Ann", "who.tags": "a, 2", "log.1.at": 1.5}
    for content, name in (
        (json.dumps(record) + "\n\n" + json.dumps("plain"), "a.jsonl"),
        (json.dumps([record, "plain"]), "a.json"),
        (json.dumps(record) + "\n" + json.dumps("plain"), "a.ndjson"),
    ):
        document = parse(content.encode(), name)
        assert shape(document) == [("record", text), ("record", "plain")]
        assert document.blocks[0].attributes == attributes


def test_attributes_keep_to_their_bounds():
    wide = {f"field {number}": number for number in range(40)} | {"x" * 65: 1}
    (block,) = parse(json.dumps(wide).encode(), "a.json").blocks
    assert len(block.attributes) == 16
    (block,) = parse(json.dumps({"x" * 65: 1, "y": "z" * 201, "big": 10**18, "kept": 1}).encode(), "a.json").blocks
    assert block.attributes == {"kept": 1}


def test_what_is_hidden_in_values_is_dropped():
    document = parse(json.dumps({"a": "ig\u200bnore\u202e"}).encode(), "a.json")
    assert document.text == "ignore"


def test_broken_records_say_where():
    assert reason(b'{"a": 1}\n{"a": ', "a.jsonl")[0] == "file_malformed"
    assert "line 2" in reason(b'{"a": 1}\n{"a": ', "a.jsonl")[1]
    assert reason(b"[" * 100_000 + b"]" * 100_000, "a.json")[0] == "file_malformed"
    assert "levels" in reason(json.dumps(json.loads('{"a":' * 17 + "1" + "}" * 17)).encode(), "a.json")[1]
    assert reason(b'a,b\n1,"' + b"x" * 200_000 + b'"', "a.csv") == ("file_malformed", "line 2: field larger than field limit (131072)")
    assert reason(b'{"a": NaN}', "a.json")[0] == "file_malformed"
    assert reason(b"a,b\n", "a.csv")[0] == "file_empty"
    assert reason(b"x\n" * 100_002, "a.csv")[0] == "file_too_large"


def test_definitions_stay_whole_with_the_remarks_above_them():
    document = parse(CODE.encode(), "wheel.py")
    assert document.title == "wheel"
    assert [(block.title, document.text[block.start : block.end].splitlines()[0]) for block in document.blocks] == [
        ("", "# The wheel."),
        ("def turn(water)", "# Turns it."),
        ("class Wheel", "class Wheel:"),
    ]
    assert document.text[document.blocks[1].start : document.blocks[1].end].endswith("return 0")


@pytest.mark.parametrize(
    ("filename", "code", "titles"),
    [
        (
            "a.go",
            "package a\n\nfunc One() int {\n\tx := 1\n\n\treturn x\n}\n\nfunc Two() {\n\tOne()\n}\n",
            ["", "func One() int", "func Two()"],
        ),
        ("a.lua", "local function one()\n  return 1\n\nend\n\nreturn one\n", ["local function one()", ""]),
        ("a.sql", "CREATE TABLE a (\n  id int,\n\n  b int\n);\n\nSELECT 1;\n", ["CREATE TABLE a (", ""]),
    ],
)
def test_no_language_is_assumed(filename: str, code: str, titles: list[str]):
    assert [block.title for block in parse(code.encode(), filename).blocks] == titles


def test_a_pdf_is_read_in_order_with_large_lines_as_headings():
    pages = [lines((24, "The wheel"), (11, "Water turns the wheel"), (16, "The race"), (11, "It brings water.")), lines((11, "The stone."))]
    document = parse(pdf(*pages), "a.pdf")
    assert document.title == "The wheel"
    assert shape(document) == [
        ("heading", "# The wheel"),
        ("text", "Water turns the wheel"),
        ("heading", "## The race"),
        ("text", "It brings water."),
        ("text", "The stone."),
    ]


def test_headers_and_footers_of_a_pdf_are_left_out():
    pages = [lines((9, f"The mill, page {number}"), (11, f"{word} turns.")) for number, word in enumerate("wheel stone water sail".split())]
    assert [text for _, text in shape(parse(pdf(*pages), "a.pdf"))] == ["wheel turns.", "stone turns.", "water turns.", "sail turns."]


def test_a_docx_keeps_headings_lists_tables_and_code():
    body = [paragraph("The wheel", "Kop1"), paragraph("Water & more."), paragraph("one", "Lijst"), paragraph("two", "Lijst")]
    body += [
        table(["part", "price"], ["wheel", "12"]),
        paragraph("def f():", "Bron"),
        paragraph("  pass", "Bron"),
        paragraph("Sub", "Kop2"),
    ]
    document = parse(docx("".join(body) + paragraph("End.")), "a.docx")
    assert document.title == "The wheel"
    assert shape(document) == [
        ("heading", "# The wheel"),
        ("text", "Water & more."),
        ("list", "- one\n- two"),
        ("table", "part | price\nwheel | 12"),
        ("code", "def f():\n  pass"),
        ("heading", "## Sub"),
        ("text", "End."),
    ]


def test_a_docx_never_opens_what_it_refers_to():
    entity = '<!DOCTYPE d [<!ENTITY x SYSTEM "file:///etc/hostname">]>'
    assert reason(docx("<w:p><w:r><w:t>&x;</w:t></w:r></w:p>", before=entity), "a.docx")[0] == "file_malformed"
    laughs = (
        "<!DOCTYPE d [<!ENTITY a 'ha'>"
        + "".join(f"<!ENTITY {b} '{f'&{a};' * 10}'>" for a, b in zip("abcdefghi", "bcdefghij", strict=True))
        + "]>"
    )
    assert reason(docx("<w:p><w:r><w:t>&j;</w:t></w:r></w:p>", before=laughs), "a.docx")[0] == "file_malformed"


def test_bombs_and_broken_and_locked_papers_say_what_they_are():
    assert reason(docx(paragraph(" " * (65 << 20))), "a.docx")[0] == "file_too_large"
    assert reason(docx(paragraph("x"), parts=10_001), "a.docx")[0] == "file_too_large"
    assert reason(docx("<w:p>"), "a.docx")[0] == "file_malformed"
    assert reason(docx(paragraph("x"))[:-30], "a.docx")[0] == "file_malformed"
    assert reason(b"\xd0\xcf\x11\xe0 an old file", "a.docx")[0] == "file_encrypted"
    assert reason(pdf(lines((11, "x")), trailer=LOCKED), "a.pdf") == ("file_encrypted", "protected by a password")
    assert reason(pdf(lines((11, "x")))[:300], "a.pdf")[0] == "file_malformed"
    assert reason(b"GIF89a", "a.pdf") == ("file_malformed", "not a PDF")
    assert reason(pdf(b"BT ET"), "a.pdf")[0] == "file_empty"
    assert "recognition" in reason(pdf(b"BT ET"), "a.pdf")[1]
    assert reason(packed(b"not compressed"), "a.pdf")[0] in ("file_empty", "file_malformed")
