"""HTML to a document: its readable text as light Markdown."""

import re

import lxml.etree as etree

from deployments.retriever.document import Block, Kind

SKIPPED = frozenset(
    {"script", "style", "nav", "footer", "aside", "template", "noscript", "svg", "iframe", "object", "form", "button", "select", "head"}
)
KINDS: dict[str, Kind] = {
    **dict.fromkeys(("h1", "h2", "h3", "h4", "h5", "h6"), "heading"),
    **dict.fromkeys(("ul", "ol"), "list"),
    **dict.fromkeys(("pre",), "code"),
    **dict.fromkeys(("table",), "table"),
    **dict.fromkeys(
        (
            "p",
            "div",
            "section",
            "article",
            "main",
            "header",
            "body",
            "blockquote",
            "figure",
            "figcaption",
            "dl",
            "dt",
            "dd",
            "address",
            "details",
            "summary",
        ),
        "text",
    ),
}
BREAKS = {"br": "\n", "li": "\n- ", "tr": "\n", "td": " | ", "th": " | "}
WHOLE = frozenset({"list", "code", "table"})
"""Kinds whose inner blocks do not stand alone."""


def read_html(source: str) -> tuple[str, str, list[Block]]:
    """Title ("" where there is none), text and blocks; scripts, styles, navigation and forms are left out."""
    parser = etree.HTMLParser(encoding="utf-8", recover=True, no_network=True, remove_comments=True, remove_pis=True, huge_tree=False)
    root = etree.HTML(source.encode("utf-8", "replace"), parser=parser)
    if root is None:
        return "", "", []
    page = Page()
    page.read(_main(root))
    title = " ".join((root.findtext(".//title") or "").split())
    first = next((block.title for block in page.blocks if block.kind == "heading"), "")
    return first or title, page.text(), page.blocks


def _main(root: etree._Element) -> etree._Element:
    for path in (".//main", ".//article", ".//body"):
        if (found := root.find(path)) is not None:
            return found
    return root


class Page:
    """Collects the text of an element tree, block after block."""

    def __init__(self):
        self.blocks: list[Block] = []
        self._pieces: list[str] = []
        self._length = 0
        self._open: list[str] = []
        self._kind: Kind = "text"
        self._level = 0
        self._whole: etree._Element | None = None

    def text(self) -> str:
        """Everything read so far."""
        return "".join(self._pieces)

    def read(self, root: etree._Element) -> None:
        """Take in an element with all below it, without recursion: depth is the author's choice, not ours."""
        skipped = None
        for event, element in etree.iterwalk(root, events=("start", "end")):
            tag = element.tag if isinstance(element.tag, str) else ""
            if event == "start" and skipped is None and tag in SKIPPED:
                skipped = element
            if skipped is None:
                self._start(element, tag) if event == "start" else self._end(element, tag)
            if event == "end" and element is skipped:
                skipped = None
            if event == "end" and skipped is None and element is not root:
                self._open.append(element.tail or "")
        self._close()

    def _start(self, element: etree._Element, tag: str) -> None:
        if self._whole is None and tag in KINDS:
            self._close()
            self._kind, self._level = KINDS[tag], int(tag[1]) if KINDS[tag] == "heading" else 0
            self._whole = element if self._kind in WHOLE else None
        elif tag in BREAKS and not (tag == "br" and self._kind == "heading"):
            self._open.append(BREAKS[tag])
        self._open.append(element.text or "")

    def _end(self, element: etree._Element, tag: str) -> None:
        if element is self._whole or (self._whole is None and tag in KINDS):
            self._close()
            self._whole = None

    def _close(self) -> None:
        raw, self._open = "".join(self._open), []
        kind, self._kind = self._kind, "text"
        body = _shape(raw, kind)
        if not body:
            return
        if self._pieces:
            self._add("\n\n")
        title = body if kind == "heading" else ""
        start = self._length
        self._add("#" * self._level + " " + body if kind == "heading" else body)
        self.blocks.append(Block(kind, start, self._length, level=self._level if title else 0, title=title))

    def _add(self, piece: str) -> None:
        self._pieces.append(piece)
        self._length += len(piece)


def _shape(raw: str, kind: Kind) -> str:
    if kind == "code":
        body = raw.strip("\n").rstrip()
        fence = "```" if "```" not in body else "~~~~"
        return f"{fence}\n{body}\n{fence}" if body.strip() else ""
    if kind in WHOLE:
        rows = (re.sub(r"\s+", " ", row).strip() for row in re.split(r"\n(?=- )|\n(?= \| )|\n(?=\n)", raw))
        return "\n".join(row.strip("| ") if kind == "table" else row for row in rows if row.strip("-| "))
    return " ".join(raw.split())
