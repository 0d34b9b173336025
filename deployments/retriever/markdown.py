"""Markdown to a document: CommonMark with tables, front matter, and what MkDocs and PyPI pages add to it."""

import re

from markdown_it import MarkdownIt
from markdown_it.token import Token

from deployments.retriever.document import Block, Kind, lines, trim

FRONT = re.compile(r"\A---[ ]*\n(.*?)^(?:---|\.\.\.)[ ]*$\n?", re.DOTALL | re.MULTILINE)
FRONT_TITLE = re.compile(r"^title:[ ]*(.+?)[ ]*$", re.MULTILINE)
FENCED = re.compile(r"^[ ]*(`{3,}+|~{3,}+)([^\n]*+)\n.*?(?:^[ ]*\1[`~]*[ ]*$|\Z)", re.DOTALL | re.MULTILINE)
COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
CODE_SPAN = re.compile(r"((?<!`)`{1,9}[^`\n]{1,1000}`{1,9})")
TAG = re.compile(
    r"</?(?:a|abbr|b|br|center|dd|details|dfn|div|dl|dt|em|font|h[1-6]|hr|i|iframe|img|kbd|li|ol|p|picture|source|small|span|strong|style|sub|summary|sup|"
    r"table|tbody|td|th|thead|tr|u|ul|video)\b[^<>]{0,1000}>",
    re.IGNORECASE,
)
LABEL, TARGET = r"\[[^\[\]\n]*\]", r"\([^()\n]*\)"
"""They hold no opening bracket of their own: a line of a million of those would else take hours."""
PROSE = (
    (re.compile(r"^[ ]*\{[*!][^\n]*[*!]\}[ ]*$", re.MULTILINE), ""),  # MkDocs include
    (re.compile(r"^([ ]*)/{3,}[ ]*\w+[ ]*\|[ ]*([^\n]+)$", re.MULTILINE), r"\1**\2**"),  # titled block: its title
    (re.compile(r"^[ ]*/{3,}[ ]*[\w-]*[ ]*$", re.MULTILINE), ""),  # untitled block, or a block's end
    (re.compile(r"^[ ]*(?:!!!|\?\?\?\+?)[ ]*\w+[ ]*(?:\"([^\"\n]*)\")?[ ]*$", re.MULTILINE), r"\1"),  # admonition: its title
    (re.compile(r"[ ]{0,3}\{[ ]{0,3}[#.:][^{}\n]{0,200}\}"), ""),  # attribute list
    (re.compile(rf"\[!{LABEL}(?:{TARGET}|{LABEL})\](?:{TARGET}|{LABEL})"), ""),  # badge
    (re.compile(rf"!\[([^\[\]\n]*)\]{TARGET}"), r"\1"),  # picture: its description
    (TAG, ""),
)
KINDS: dict[str, Kind] = {
    "heading_open": "heading",
    "paragraph_open": "text",
    "blockquote_open": "text",
    "bullet_list_open": "list",
    "ordered_list_open": "list",
    "fence": "code",
    "code_block": "code",
    "table_open": "table",
    "html_block": "text",
}


def read_markdown(source: str) -> tuple[str, str, list[Block]]:
    """Title ("" where there is none), text and blocks.

    Code is left as it is; around it front matter, HTML comments and tags, includes, attribute lists and badges are dropped.
    """
    front = FRONT.match(source)
    named = FRONT_TITLE.search(front[1]) if front else None
    text = tidy(source[front.end() :] if front else source)
    blocks = list(_blocks(text))
    first = next((block.title for block in blocks if block.kind == "heading"), "")
    return (named[1].strip("\"'") if named else first), text, blocks


def tidy(source: str) -> str:
    """`source` without what is not content."""
    pieces, at = [], 0
    for fence in FENCED.finditer(source):
        pieces += [_prose(source[at : fence.start()]), TAG.sub("", fence[0]) if fence[2].strip() == "console" else fence[0]]
        at = fence.end()
    pieces.append(_prose(source[at:]))
    return re.sub(r"\n{3,}", "\n\n", "".join(pieces)).strip()


def _prose(text: str) -> str:
    pieces = CODE_SPAN.split(COMMENT.sub("", text))
    for index in range(0, len(pieces), 2):
        for pattern, replacement in PROSE:
            pieces[index] = pattern.sub(replacement, pieces[index])
    return "".join(pieces)


def _blocks(text: str):
    starts = lines(text)
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    for index, token in enumerate(tokens):
        if token.level or token.map is None or token.type not in KINDS:
            continue
        start, end = trim(text, starts[token.map[0]], starts[min(token.map[1], len(starts) - 1)])
        if start == end:
            continue
        if token.type == "heading_open":
            yield Block("heading", start, end, level=int(token.tag[1]), title=_plain(tokens[index + 1]))
        else:
            columns = text[start:end].split("\n", 1)[0].strip("| ") if token.type == "table_open" else ""
            yield Block(KINDS[token.type], start, end, title=columns)


def _plain(inline: Token) -> str:
    return "".join(child.content for child in inline.children or []).strip()
