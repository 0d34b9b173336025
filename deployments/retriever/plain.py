"""Plain text and reStructuredText to a document, line by line; nothing in the file is executed or included."""

import re
from collections.abc import Iterator

from deployments.retriever.document import Block, Kind, lines, trim

RULE = re.compile(r"([=\-`:.'\"~^_*+#<>!$%&(),/;?@\[\\\]{|}])\1{2,}[ ]*")
BULLET = re.compile(r"[ ]{0,3}(?:[-*+•]|\d{1,3}[.)]|#\.)[ ]+\S")
TABLE = re.compile(r"[ ]*(?:\+[-=+]+\+|={2,}(?:[ ]+={2,})+)[ ]*")
DIRECTIVE = re.compile(r"[ ]*\.\.(?:[ ]+(?P<name>[\w:-]+?)::)?(?:[ ]|$)")
CODE = frozenset({"code", "code-block", "sourcecode", "parsed-literal", "doctest", "testcode"})
PROSE = frozenset(
    {
        "note",
        "tip",
        "hint",
        "important",
        "warning",
        "caution",
        "danger",
        "attention",
        "admonition",
        "versionadded",
        "versionchanged",
        "deprecated",
    }
)


def read_text(source: str) -> tuple[str, str, list[Block]]:
    """No title, the text, and its paragraphs."""
    text = source.strip()
    starts = lines(text)
    rows = text.split("\n")
    blocks = []
    for first, last in _groups(rows):
        start, end = trim(text, starts[first], starts[last])
        blocks.append(Block(_kind(rows[first]), start, end))
    return "", text, blocks


def read_rst(source: str) -> tuple[str, str, list[Block]]:
    """Title, the source as text, and its blocks; directives that are not prose, code or a table are shown but not searched."""
    text = source.strip()
    starts, rows = lines(text), text.split("\n")
    levels: list[str] = []
    blocks: list[Block] = []
    literal = False
    for first, last, heading in _parts(rows):
        start, end = trim(text, starts[first], starts[last])
        if heading:
            style, title = heading
            levels += [] if style in levels else [style]
            blocks.append(Block("heading", start, end, level=levels.index(style) + 1, title=title))
            literal = False
            continue
        directive = DIRECTIVE.match(rows[first])
        name = directive["name"] if directive else None
        if directive and name not in CODE | PROSE:
            continue
        indented = rows[first].startswith(" ")
        code = name in CODE or (literal and indented)
        blocks.append(Block("code" if code else _kind(rows[first]), start, end))
        literal = rows[last - 1].rstrip().endswith("::") or (code and name is None) or (name in CODE and last - first <= 2)
    title = next((block.title for block in blocks if block.kind == "heading"), "")
    return title, text, blocks


def _groups(rows: list[str]) -> Iterator[tuple[int, int]]:
    """Runs of lines between blank ones, as [first, last)."""
    first = None
    for index, row in enumerate([*rows, ""]):
        if row.strip():
            first = index if first is None else first
        elif first is not None:
            yield first, index
            first = None


def _parts(rows: list[str]) -> Iterator[tuple[int, int, tuple[str, str] | None]]:
    """Groups of lines, a heading apart from the text right below it; with a heading its (style, title)."""
    for first, last in _groups(rows):
        height, heading = _heading([row.rstrip() for row in rows[first : min(first + 3, last)]])
        if heading:
            yield first, first + height, heading
        if first + height < last:
            yield first + height, last, None


def _heading(rows: list[str]) -> tuple[int, tuple[str, str] | None]:
    if len(rows) == 3 and RULE.fullmatch(rows[0]) and rows[0] == rows[2] and not RULE.fullmatch(rows[1]):
        return 3, (rows[0][0] * 2, rows[1].strip())
    if len(rows) >= 2 and RULE.fullmatch(rows[1]) and not rows[0].startswith(" ") and len(rows[1]) >= len(rows[0]):
        return 2, (rows[1][0], rows[0].strip())
    return 0, None


def _kind(row: str) -> Kind:
    if TABLE.fullmatch(row):
        return "table"
    return "list" if BULLET.match(row) else "text"
