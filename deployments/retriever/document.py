"""What parsing yields: plain text and the blocks it is made of."""

from collections.abc import Mapping
from typing import Literal

import msgspec

from deployments.core.errors import InvalidRequest
from deployments.core.filters import Value

Kind = Literal["heading", "text", "list", "code", "table", "record"]

MAX_CHARACTERS = 32 << 20
"""The longest text of a file: a compressed one may hold a thousand times its size."""


class Block(msgspec.Struct, frozen=True):
    """Characters [start, end) of a document that belong together.

    `level` and `title` are those of a heading; of code and tables `title` is the line that every part needs to be understood, of which
    there may be none: a signature, the names of the columns. A record never shares a passage; `attributes` are its fields.
    """

    kind: Kind
    start: int
    end: int
    level: int = 0
    title: str = ""
    attributes: Mapping[str, Value] = {}


class Document(msgspec.Struct, frozen=True):
    """A parsed file: `text` is what is stored and shown, and every span of ours counts its characters.

    Blocks are in order and do not overlap; text between them (link definitions, dropped directives) is shown but not searched.
    """

    title: str
    text: str
    blocks: tuple[Block, ...]


class Unreadable(InvalidRequest):
    """A file that cannot be ingested; the code says why.

    file_empty: nothing to read. file_too_large: over a bound. file_binary: not text. file_encrypted: it needs a password.
    file_encoding: neither UTF-8 nor marked as another encoding. file_unsupported: no parser for this kind of name.
    file_malformed: not what its name says, or broken. file_unreadable: its parser failed at it.
    """

    code = "file_unreadable"


class Draft:
    """A document being written, block after block, with an empty line between two; raises Unreadable where it grows too long."""

    def __init__(self):
        self.blocks: list[Block] = []
        self._pieces: list[str] = []
        self._length = 0

    def text(self) -> str:
        """Everything written so far."""
        return "".join(self._pieces)

    def heading(self, level: int, title: str) -> None:
        """Add a heading; a blank one is left out."""
        title = " ".join(title.split())
        if title:
            self._write("heading", "#" * level + " " + title, Block("heading", 0, 0, level, title))

    def add(self, kind: Kind, body: str, title: str = "", attributes: Mapping[str, Value] = {}) -> None:
        """Add a block of that text; a blank one is left out."""
        if body.strip():
            self._write(kind, body.strip("\n"), Block(kind, 0, 0, 0, title, attributes))

    def parsed(self, title: str = "") -> "tuple[str, str, list[Block]]":
        """What a reader gives: title, else the first heading; text; blocks."""
        first = next((block.title for block in self.blocks if block.kind == "heading"), "")
        return title or first, self.text(), self.blocks

    def _write(self, kind: Kind, body: str, block: Block) -> None:
        if self._pieces:
            self._pieces.append("\n\n")
            self._length += 2
        start = self._length
        self._pieces.append(body)
        self._length += len(body)
        if self._length > MAX_CHARACTERS:
            raise Unreadable(f"its text is longer than {MAX_CHARACTERS} characters", code="file_too_large")
        self.blocks.append(msgspec.structs.replace(block, start=start, end=self._length))


def lines(text: str) -> list[int]:
    """The offset at which each line starts, and the text's end."""
    starts = [0]
    for line in text.split("\n"):
        starts.append(starts[-1] + len(line) + 1)
    starts[-1] = len(text)
    return starts


def trim(text: str, start: int, end: int) -> tuple[int, int]:
    """[start, end) without white space at its ends; start == end where nothing is left."""
    piece = text[start:end]
    left = len(piece) - len(piece.lstrip())
    return (start + left, start + len(piece.rstrip())) if left < len(piece) else (start, start)
