"""HTML to a document: its readable text as light Markdown."""

import re

import lxml.etree as etree

from deployments.retriever.document import Block, Draft, Kind, Unreadable

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
    if any("Buffer size limit" in error.message for error in parser.error_log):
        raise Unreadable("a text or an attribute in it is longer than 10 MB", code="file_too_large")
    if root is None:
        return "", "", []
    page = Page()
    page.read(_main(root))
    title = " ".join((root.findtext(".//title") or "").split())
    first, text, blocks = page.draft.parsed()
    return first or title, text, blocks


def _main(root: etree._Element) -> etree._Element:
    for path in (".//main", ".//article", ".//body"):
        if (found := root.find(path)) is not None:
            return found
    return root


class Page:
    """Collects the text of an element tree, block after block."""

    def __init__(self):
        self.draft = Draft()
        self._open: list[str] = []
        self._kind: Kind = "text"
        self._level = 0
        self._whole: etree._Element | None = None

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
        if kind == "heading":
            self.draft.heading(self._level, body)
        else:
            self.draft.add(kind, body, title=body.split("\n", 1)[0] if kind == "table" else "")


def _shape(raw: str, kind: Kind) -> str:
    if kind == "code":
        body = raw.strip("\n").rstrip()
        fence = "```" if "```" not in body else "~~~~"
        return f"{fence}\n{body}\n{fence}" if body.strip() else ""
    if kind in WHOLE:
        rows = (re.sub(r"\s+", " ", row).strip() for row in re.split(r"\n(?=- )|\n(?= \| )|\n(?=\n)", raw))
        return "\n".join(row.strip("| ") if kind == "table" else row for row in rows if row.strip("-| "))
    return " ".join(raw.split())
