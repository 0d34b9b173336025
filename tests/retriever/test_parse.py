import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.core.errors import InvalidRequest
from deployments.retriever.charset import normalise
from deployments.retriever.document import Document, Unreadable
from deployments.retriever.parse import parse

MARKDOWN = """---
title: "The Title"
tags: [a]
---
<!-- hidden
comment -->
# First heading { #first }

[![Build](https://example.org/badge.svg)](https://example.org/ci)

A paragraph with [a link](https://example.org){.internal target=_blank} and <abbr title="x">HTML</abbr>.

{* ../../docs_src/app.py hl[3] *}

/// note | Technical Details

Inside the note.

///

```python
items[0]  # <!-- stays -->
{* stays *}
```

| a | b |
|---|---|
| 1 | 2 |

## Second

- one

- two

[a]: https://example.org
"""

RST = """Title
=====
Right below.

Sub
---

.. image:: x.png
   :alt: not content

Use it::

    first = 1

    second = 2

.. code-block:: python

   import x

* a
* b
"""

HTML = """<html><head><title>Page</title><style>a{}</style></head><body><nav>menu</nav>
<h1>Head <b>line</b></h1><p>Some <a href="x">linked</a> text</p>loose
<ul><li>a<p>x</p></li><li>b
c</li></ul><pre>def f():
  return 1</pre><table><tr><th>A</th><th>B</th></tr><tr><td>1</td><td>2</td></tr></table>
<script>alert(1)</script></body></html>"""


def shape(document: Document) -> list[tuple[str, str]]:
    return [(block.kind, document.text[block.start : block.end]) for block in document.blocks]


def reason(content: bytes, filename: str = "a.md", max_bytes: int = 1 << 20) -> str:
    with pytest.raises(Unreadable) as caught:
        parse(content, filename, max_bytes)
    assert isinstance(caught.value, InvalidRequest)
    return caught.value.wire_code


def test_markdown_loses_what_is_not_content_and_keeps_code_as_it_is():
    document = parse(MARKDOWN.encode(), "page.md")
    assert document.title == "The Title"
    assert shape(document) == [
        ("heading", "# First heading"),
        ("text", "A paragraph with [a link](https://example.org) and HTML."),
        ("text", "**Technical Details**"),
        ("text", "Inside the note."),
        ("code", "```python\nitems[0]  # <!-- stays -->\n{* stays *}\n```"),
        ("table", "| a | b |\n|---|---|\n| 1 | 2 |"),
        ("heading", "## Second"),
        ("list", "- one\n\n- two"),
    ]
    assert [block.title for block in document.blocks if block.kind == "heading"] == ["First heading", "Second"]


def test_restructured_text_is_read_without_running_its_directives():
    document = parse(RST.encode(), "page.rst")
    assert document.title == "Title"
    assert [(kind, text) for kind, text in shape(document) if kind != "code"] == [
        ("heading", "Title\n====="),
        ("text", "Right below."),
        ("heading", "Sub\n---"),
        ("text", "Use it::"),
        ("list", "* a\n* b"),
    ]
    assert [text for kind, text in shape(document) if kind == "code"][:2] == ["first = 1", "second = 2"]


def test_html_is_read_as_its_visible_text():
    document = parse(HTML.encode(), "page.html")
    assert document.title == "Head line"
    assert shape(document) == [
        ("heading", "# Head line"),
        ("text", "Some linked text"),
        ("text", "loose"),
        ("list", "- ax\n- b c"),
        ("code", "```\ndef f():\n  return 1\n```"),
        ("table", "A | B\n1 | 2"),
    ]


def test_plain_text_is_split_at_blank_lines_and_named_after_its_file():
    document = parse(b"One\ntwo.\r\n\r\nThree.", "notes.txt")
    assert (document.title, shape(document)) == ("notes", [("text", "One\ntwo."), ("text", "Three.")])


def test_each_unreadable_file_says_why():
    assert reason(b"") == "file_empty"
    assert reason(b"<!-- only a comment -->\n# and a heading") == "file_empty"
    assert reason(b"", "a.html") == "file_empty"
    assert reason(b"PK\x03\x04\0\0", "a.txt") == "file_binary"
    assert reason("caf\xe9".encode("latin-1")) == "file_encoding"
    assert reason(b"<meta charset=klingon>x", "a.html") == "file_encoding"
    assert reason(b"x" * 11, max_bytes=10) == "file_too_large"
    assert reason(b"MZ", "a.exe") == "file_unsupported"


def test_marked_encodings_are_read():
    assert parse("é".encode("utf-8-sig"), "a.txt").text == "é"
    assert parse("é".encode("utf-16"), "a.txt").text == "é"
    assert parse('<meta charset="latin-1"><p>é</p>'.encode("latin-1"), "a.html").text == "é"


def test_invisible_characters_are_dropped_and_meaning_is_kept():
    assert normalise("a\u200bb\u202ec\U000e0041d\x00e\ufeff") == "abcde"
    assert normalise("e\u0301 x² \u0645\u06cc\u200c\u062e") == "é x² \u0645\u06cc\u200c\u062e"
    assert normalise("ig\u200dnore") == "ignore"


@given(
    st.text(alphabet=st.sampled_from("#`~-*|<>![]{}()/:=+. \n\tab\u00e9"), max_size=300),
    st.sampled_from(["a.md", "a.rst", "a.html", "a.txt"]),
)
def test_blocks_of_any_text_are_in_order_and_inside_it(source: str, filename: str):
    try:
        document = parse(source.encode(), filename)
    except Unreadable:
        return
    at = 0
    for block in document.blocks:
        assert at <= block.start < block.end <= len(document.text)
        assert document.text[block.start : block.end].strip()
        at = block.end


def test_hostile_markup_ends_quickly():
    assert reason(b"<div>" * 20_000 + b"deep", "a.html") == "file_empty"  # the HTML parser reads no deeper than 256 levels
    assert reason(b"<!--" * 50_000) == "file_empty"
    assert parse(b"```\n" * 20_001, "a.md").blocks
    assert parse(b"[![" * 20_000, "a.md").blocks
    for seed in (b"`", b"~", b"![", b"[![](", b"{ ."):
        began = time.process_time()
        assert parse(b"a\n" + seed * (30_000 // len(seed)) + b"\n\na", "a.md").blocks
        assert time.process_time() - began < 5, seed
