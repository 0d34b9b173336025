"""A document to passages: along its structure, bounded in tokens, with exact spans."""

import re
from collections.abc import Callable, Iterator

from deployments.core.types import Chunk
from deployments.retriever.document import Document

Count = Callable[[str], int]
Span = tuple[int, int]

SMALL_TOKENS = 64
"""A section shorter than this goes on into the next one."""
CUTS = (re.compile(r"\n[ ]*\n"), re.compile(r"\n"), re.compile(r"(?<=[.!?;:])[ \n]+"), re.compile(r"\s+"))
"""Where a block that is too long may be cut, best first."""


def chunk(document: Document, limit_tokens: int, count: Count) -> list[Chunk]:
    """The passages of a document, in order; each has at most `limit_tokens` by `count`.

    Blocks stay whole where they fit. A section ends a passage unless it is very short. `document.text[c.start:c.end] == c.text` for each.
    """
    chunks = []
    for headings, (start, end) in _merged(document, limit_tokens, count):
        text = document.text[start:end]
        chunks.append(Chunk(number=len(chunks), text=text, headings=headings, start=start, end=end, tokens=count(text)))
    return chunks


def embedded_text(title: str, chunk: Chunk) -> str:
    """What is embedded and searched for a passage: the title path, then its text."""
    path = [title, *(heading for heading in chunk.headings if heading != title)]
    return " > ".join(path) + "\n" + chunk.text


def _merged(document: Document, limit: int, count: Count) -> Iterator[tuple[tuple[str, ...], Span]]:
    path: tuple[str, ...] = ()
    held: Span | None = None
    held_tokens = 0
    for headings, (start, end), fresh in _pieces(document, limit, count):
        tokens = count(document.text[start:end])
        if held is not None:
            gap = document.text[held[1] : start]
            joined = held_tokens + count(gap) + tokens
            if gap and joined <= limit and (not fresh or held_tokens < SMALL_TOKENS):
                path, held, held_tokens = _common(path, headings), (held[0], end), joined
                continue
            yield path, held
        path, held, held_tokens = headings, (start, end), tokens
    if held is not None:
        yield path, held


def _common(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    same = 0
    while same < min(len(one), len(other)) and one[same] == other[same]:
        same += 1
    return one[: max(same, 1)]


def _pieces(document: Document, limit: int, count: Count) -> Iterator[tuple[tuple[str, ...], Span, bool]]:
    """Blocks, or parts of those over the limit, with their headings; `fresh` is the first of a section and starts at its heading."""
    stack: list[tuple[int, str]] = []
    heading: int | None = None
    for block in document.blocks:
        if block.kind == "heading":
            stack = [(level, title) for level, title in stack if level < block.level] + [(block.level, block.title)]
            heading = block.start if heading is None else heading
            continue
        headings = tuple(title for _, title in stack if title)
        span = (block.start if heading is None else heading, block.end)
        if heading is not None and count(document.text[span[0] : span[1]]) > limit:
            span = (block.start, block.end)
        for number, part in enumerate(cut(document.text, span, limit, count)):
            yield headings, part, heading is not None and number == 0
        heading = None


def cut(text: str, span: Span, limit: int, count: Count, depth: int = 0) -> Iterator[Span]:
    """Parts of `span` of at most `limit` tokens: at blank lines, else lines, sentences, words, characters."""
    start, end = span
    if count(text[start:end]) <= limit:
        yield span
        return
    if depth == len(CUTS):
        yield from _halves(text, span, limit, count)
        return
    held: Span | None = None
    held_tokens = 0
    for unit in _units(text, span, CUTS[depth]):
        tokens = count(text[unit[0] : unit[1]])
        if held is not None and held_tokens + tokens <= limit:
            held, held_tokens = (held[0], unit[1]), held_tokens + tokens
            continue
        if held is not None:
            yield held
            held = None
        if tokens > limit:
            yield from cut(text, unit, limit, count, depth + 1)
        else:
            held, held_tokens = unit, tokens
    if held is not None:
        yield held


def _units(text: str, span: Span, pattern: re.Pattern[str]) -> Iterator[Span]:
    at = span[0]
    for match in pattern.finditer(text, *span):
        if match.start() > at:
            yield at, match.start()
        at = match.end()
    if at < span[1]:
        yield at, span[1]


def _halves(text: str, span: Span, limit: int, count: Count) -> Iterator[Span]:
    start, end = span
    if end - start == 1 or count(text[start:end]) <= limit:
        yield span
        return
    middle = (start + end) // 2
    yield from _halves(text, (start, middle), limit, count)
    yield from _halves(text, (middle, end), limit, count)
