"""A document to passages: along its structure, bounded in tokens, with exact spans."""

import bisect
import itertools
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence

import msgspec

from deployments.core.types import Chunk
from deployments.retriever.document import Block, Document, Kind

Count = Callable[[str], int]
Span = tuple[int, int]

VERSION = 1
"""Of what parsing and chunking make of a file; raised with every change of it, so that nothing made before is taken for the same."""
SMALL_TOKENS = 64
"""A section shorter than this goes on into the next one."""
PATH_CHARACTERS = 160
"""The longest title path in front of an embedded text; of a longer one its middle is left out."""
TOKEN_CHARACTERS = 8
"""Characters that count as a token at least: a tokenizer takes a word it does not know, of any length, as one."""
LINES = (re.compile(r"\n[ ]*\n"), re.compile(r"\n"))
WORDS = (re.compile(r"(?<=[.!?;:…])[ \n]+|(?<=[。！？；।॥؟۔])"), re.compile(r"\s+"))
DEFINITIONS = (re.compile(r"\n[ ]*\n(?=[ ]{0,4}[^ ])"),)
"""Where code is cut first: in front of what stands one level from the margin, such as a method."""
_GUESSES = 4
"""Guesses at how much fits, after which the rest is halved instead."""
_MARKS = 16
"""Most characters that are taken for marks of one letter."""
CUTS: dict[Kind, tuple[re.Pattern[str], ...]] = {"code": (*DEFINITIONS, *LINES, *WORDS), "table": (LINES[1], *WORDS)}
"""Where a block that is too long may be cut, best first."""


class Piece(msgspec.Struct, frozen=True):
    """A block or a part of one; `fresh` begins a section. A piece that is `alone` shares no passage."""

    headings: tuple[str, ...]
    span: Span
    tokens: int
    fresh: bool
    block: Block
    alone: bool = False


def chunk(document: Document, limit_tokens: int, count: Count, window_tokens: int | None = None) -> list[Chunk]:
    """The passages of a document, in order; each has at most `limit_tokens` by `count`.

    Where the model reads no more than `window_tokens`, title path and text together have at most those, as long as that leaves a text
    half of its limit. Blocks stay whole where they fit. A section ends a passage unless it is very short.
    `document.text[c.start:c.end] == c.text` for each.
    """
    return Cutter(document, limit_tokens, count, window_tokens).chunks()


def embedded_text(title: str, chunk: Chunk) -> str:
    """What is embedded and searched for a passage: the title path, then its text."""
    return title_path(title, chunk.headings) + "\n" + chunk.text


def title_path(title: str, headings: Sequence[str]) -> str:
    """Title and headings, within its bound."""
    path = " > ".join([title, *(heading for heading in headings if heading != title)])
    half = PATH_CHARACTERS // 2
    return path if len(path) <= PATH_CHARACTERS else f"{path[:half]} … {path[-half:]}"


class Cutter:
    """Cuts one document."""

    def __init__(self, document: Document, limit: int, count: Count, window: int | None = None):
        self._document = document
        self._limit, self._window = limit, window
        self._count = count
        self._rooms: dict[tuple[str, ...], int] = {}
        self._counted: dict[Span, int] = {}
        self._pace = 4.0  # characters a token

    def chunks(self) -> list[Chunk]:
        """The passages, in order."""
        made: list[Chunk] = []
        for piece in self._merged():
            start, end = piece.span
            text, tokens = self._document.text[start:end], self._tokens(piece.span)
            made.append(Chunk(len(made), text, piece.headings, start, end, tokens, dict(piece.block.attributes)))
        return made

    def _merged(self) -> Iterator[Piece]:
        held: Piece | None = None
        for piece in self._pieces():
            if held is None:
                held = piece
            elif joined := self._joined(held, piece):
                held = joined
            else:
                yield held
                held = piece
        if held is not None:
            yield held

    def _joined(self, one: Piece, other: Piece) -> Piece | None:
        """Two pieces as one, where they belong together and fit."""
        gap = self._document.text[one.span[1] : other.span[0]]
        if one.alone or other.alone or not gap or (other.fresh and one.tokens >= SMALL_TOKENS):
            return None
        headings = _common(one.headings, other.headings)
        tokens = one.tokens + self._measure((one.span[1], other.span[0])) + other.tokens
        if tokens > self._room(headings):
            return None
        return Piece(headings, (one.span[0], other.span[1]), tokens, one.fresh, one.block)

    def _pieces(self) -> Iterator[Piece]:
        """Blocks, or parts of those over the limit, with their headings; the first of a section starts at its heading."""
        stack: list[tuple[int, str]] = []
        heading: int | None = None
        for block in self._document.blocks:
            if block.kind == "heading":
                stack = [(level, title) for level, title in stack if level < block.level] + [(block.level, block.title)]
                heading = block.start if heading is None else heading
                continue
            headings = tuple(title for _, title in stack if title)
            span = (block.start if heading is None else heading, block.end)
            if heading is not None and not self._fits(span, self._room(headings)):
                span = (block.start, block.end)
            for number, piece in enumerate(self._parts(block, headings, span)):
                yield msgspec.structs.replace(piece, fresh=heading is not None and number == 0)
            heading = None

    def _parts(self, block: Block, headings: tuple[str, ...], span: Span) -> Iterator[Piece]:
        """A block, or its parts; those behind the first say by their headings what they are part of."""
        inner = (*headings, block.title) if block.title else headings
        patterns = CUTS.get(block.kind, (*LINES, *WORDS))
        for number, part in enumerate(self._cut(span, min(self._room(headings), self._room(inner)), patterns)):
            path = inner if number else headings
            yield Piece(path, part, self._measure(part), False, block, alone=block.kind == "record")

    def _room(self, headings: tuple[str, ...]) -> int:
        """Tokens that a text under these headings may have."""
        if self._window is None:
            return self._limit
        if headings not in self._rooms:
            left = self._window - self._count(title_path(self._document.title, headings))
            self._rooms[headings] = min(self._limit, max(left, min(self._limit, self._window) // 2))
        return self._rooms[headings]

    def _measure(self, span: Span) -> int:
        return max(self._tokens(span), (span[1] - span[0]) // TOKEN_CHARACTERS)

    def _tokens(self, span: Span) -> int:
        if span not in self._counted:
            self._counted[span] = self._count(self._document.text[slice(*span)])
        return self._counted[span]

    def _fits(self, span: Span, limit: int) -> bool:
        return span[1] - span[0] <= limit * TOKEN_CHARACTERS and self._measure(span) <= limit

    def _cut(self, span: Span, limit: int, patterns: Sequence[re.Pattern[str]]) -> Iterator[Span]:
        """Parts of `span` of at most `limit` tokens, each as long as the first of the patterns allows, else cut by the next."""
        at, stop = span
        while at < stop:
            if self._fits((at, stop), limit):
                yield at, stop
                return
            if not patterns:
                end = self._letters(at, stop, limit)
                yield at, end
                at = end
                continue
            ends = self._ends(at, stop, limit, patterns[0])
            fitting = self._most(at, [end for end, _ in ends], limit)
            end, next_at = ends[max(fitting - 1, 0)]
            if fitting:
                yield at, end
            else:
                yield from self._cut((at, end), limit, patterns[1:])
            at = next_at

    def _ends(self, at: int, stop: int, limit: int, pattern: re.Pattern[str]) -> list[Span]:
        """Where a part that starts at `at` may end and the next one start: all within reach, and the first one beyond."""
        found: list[Span] = []
        for match in pattern.finditer(self._document.text, at, stop):
            if match.start() > at:
                found.append(match.span())
                if match.start() - at > limit * TOKEN_CHARACTERS:
                    return found
        return [*found, (stop, stop)]

    def _letters(self, at: int, stop: int, limit: int) -> int:
        """Where a part ends that has no better place to end: one letter on at least, and before no mark of a letter."""
        ends = range(at + 1, min(at + limit * TOKEN_CHARACTERS, stop) + 1)
        end = ends[max(self._most(at, ends, limit), 1) - 1]
        whole = (one for one in range(end, max(end - _MARKS, at), -1) if one == stop or not _joined(self._document.text, one))
        return next(whole, end)

    def _most(self, at: int, ends: Sequence[int], limit: int) -> int:
        """How many of the ends leave a part that fits: the part grows with them. Guesses by the tokens that the last guess had."""
        fits, too_many = 0, len(ends) + 1
        for attempt in itertools.count():
            if too_many - fits == 1:
                return fits
            guess = bisect.bisect_right(ends, at + limit * self._pace) if attempt < _GUESSES else (fits + too_many) // 2
            guess = min(max(guess, fits + 1), too_many - 1)
            length = ends[guess - 1] - at
            tokens = self._measure((at, ends[guess - 1])) if length <= limit * TOKEN_CHARACTERS else limit + 1
            if tokens <= limit:
                fits = guess
            else:
                too_many = guess
            if length <= limit * TOKEN_CHARACTERS:
                self._pace = length / max(tokens, 1)
        raise AssertionError


def _joined(text: str, at: int) -> bool:
    """Whether the characters before and at a place make one letter."""
    return unicodedata.category(text[at]).startswith("M") or "\u200d" in text[at - 1 : at + 1]


def _common(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    same = 0
    while same < min(len(one), len(other)) and one[same] == other[same]:
        same += 1
    return one[: max(same, 1)]
