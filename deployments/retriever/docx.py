"""DOCX to a document: headings by style, lists, tables and text of the body; nothing it refers to is opened.

Left out: headers, footers, footnotes, comments, pictures and deleted text.
"""

import zipfile
import zlib
from collections.abc import Iterator
from io import BytesIO
from itertools import groupby

import lxml.etree as etree

from deployments.retriever.charset import normalise
from deployments.retriever.document import Block, Draft, Kind, Unreadable

MAX_UNPACKED_BYTES = 64 << 20
"""Of each of the parts that are read; a bomb unpacks to a thousand times its size."""
MAX_ENTRIES = 10_000

_OLE = b"\xd0\xcf\x11\xe0"
"""How an encrypted DOCX begins, and a DOC."""
_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
_WRITTEN = {f"{_W}tab": " ", f"{_W}br": "\n", f"{_W}cr": "\n", f"{_W}noBreakHyphen": "-"}
_LEVELS = 6


def read_docx(content: bytes) -> tuple[str, str, list[Block]]:
    """Title, text and blocks; raises Unreadable for what is encrypted, broken, or unpacks to too much."""
    if content.startswith(_OLE):
        raise Unreadable("protected by a password, or an old DOC; save it as DOCX without a password", code="file_encrypted")
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            if len(archive.namelist()) > MAX_ENTRIES:
                raise Unreadable(f"more than {MAX_ENTRIES} parts", code="file_too_large")
            styles = _styles(_part(archive, "word/styles.xml")) if "word/styles.xml" in archive.namelist() else {}
            body = _part(archive, "word/document.xml").find(f"{_W}body")
    except (zipfile.BadZipFile, KeyError, NotImplementedError, EOFError, ValueError, OSError, zlib.error) as error:
        # zipfile raises NotImplementedError for a compression that it does not know
        raise Unreadable("not a DOCX, or broken", code="file_malformed") from error
    except RuntimeError as error:  # how zipfile says that a part is encrypted
        raise Unreadable("protected by a password", code="file_encrypted") from error
    draft = Draft()
    if body is not None:
        _write(draft, body, styles)
    return draft.parsed()


def _part(archive: zipfile.ZipFile, name: str) -> etree._Element:
    with archive.open(name) as part:
        packed = part.read(MAX_UNPACKED_BYTES + 1)
    if len(packed) > MAX_UNPACKED_BYTES:
        raise Unreadable(f"{name} is larger than {MAX_UNPACKED_BYTES} bytes when unpacked", code="file_too_large")
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        root = etree.fromstring(packed, parser)
    except etree.XMLSyntaxError as error:
        raise Unreadable(f"{name} is not XML: {error}"[:300], code="file_malformed") from error
    if root.getroottree().docinfo.doctype:
        raise Unreadable(f"{name} declares a document type", code="file_malformed")
    return root


def _styles(root: etree._Element) -> dict[str, tuple[Kind, int]]:
    """What paragraphs of a style are, by its id, and the level of headings."""
    styles: dict[str, tuple[Kind, int]] = {}
    for style in root.iter(f"{_W}style"):
        name = _value(style, f"{_W}name").lower()
        level = _value(style, f"{_W}pPr/{_W}outlineLvl") or (name.removeprefix("heading ") if name.startswith("heading ") else "")
        if name == "title":
            styles[style.get(f"{_W}styleId", "")] = "heading", 1
        elif level.isdecimal():
            styles[style.get(f"{_W}styleId", "")] = "heading", min(int(level) + (not name.startswith("heading ")), _LEVELS)
        elif name.startswith("list "):
            styles[style.get(f"{_W}styleId", "")] = "list", 0
        elif any(word in name for word in ("code", "preformatted", "verbatim")):
            styles[style.get(f"{_W}styleId", "")] = "code", 0
    return styles


def _value(element: etree._Element, path: str) -> str:
    found = element.find(path)
    return "" if found is None else found.get(f"{_W}val", "")


def _write(draft: Draft, body: etree._Element, styles: dict[str, tuple[Kind, int]]) -> None:
    """The paragraphs and tables of the body; items of a list and lines of code that follow each other are one block."""
    for kind, run in groupby(_paragraphs(body, styles), key=lambda one: one[0]):
        texts = [(level, text) for _, level, text in run if text.strip()]
        if kind in ("list", "code"):
            draft.add(kind, "\n".join(f"- {text}" if kind == "list" else text for _, text in texts))
            continue
        for level, text in texts:
            if kind == "heading":
                draft.heading(level, text)
            elif kind == "table":
                draft.add("table", text, title=text.split("\n", 1)[0])
            else:
                draft.add("text", text)


def _paragraphs(body: etree._Element, styles: dict[str, tuple[Kind, int]]) -> Iterator[tuple[Kind, int, str]]:
    """Kind, level and text of each paragraph and table, those in content controls as well."""
    for element in body.iterchildren():
        if element.tag == f"{_W}p":
            kind, level = _kind(element, styles)
            yield kind, level, _text(element)
        elif element.tag == f"{_W}tbl":
            cells = ([" ".join(_text(cell).split()) for cell in row.iterchildren(f"{_W}tc")] for row in element.iterchildren(f"{_W}tr"))
            rows = (" | ".join(row) for row in cells)
            yield "table", 0, "\n".join(row for row in rows if row.strip(" |"))
        elif element.tag == f"{_W}sdt":
            for content in element.iterchildren(f"{_W}sdtContent"):
                yield from _paragraphs(content, styles)


def _kind(paragraph: etree._Element, styles: dict[str, tuple[Kind, int]]) -> tuple[Kind, int]:
    kind, level = styles.get(_value(paragraph, f"{_W}pPr/{_W}pStyle"), ("text", 0))
    if (outline := _value(paragraph, f"{_W}pPr/{_W}outlineLvl")).isdecimal() and int(outline) < 9:
        return "heading", min(int(outline) + 1, _LEVELS)
    if kind == "text" and paragraph.find(f"{_W}pPr/{_W}numPr") is not None:
        return "list", 0
    return kind, level


def _text(element: etree._Element) -> str:
    """The text below an element, each paragraph in it on a line of its own; what only stands in for newer markup is passed over."""
    pieces: list[str] = []
    skipped = None
    for event, one in etree.iterwalk(element, events=("start", "end")):
        if event == "end":
            skipped = None if one is skipped else skipped
            if one.tag == f"{_W}p" and one is not element:
                pieces.append("\n")
        elif one.tag == _FALLBACK and skipped is None:
            skipped = one
        elif skipped is None:
            pieces.append((one.text or "") if one.tag == f"{_W}t" else _WRITTEN.get(str(one.tag), ""))
    return normalise("".join(pieces)).strip("\n")
