"""What parsing yields: plain text and the blocks it is made of."""

from typing import Literal

import msgspec

from deployments.core.errors import InvalidRequest

Kind = Literal["heading", "text", "list", "code", "table"]


class Block(msgspec.Struct, frozen=True):
    """Characters [start, end) of a document that belong together; `level` and `title` are those of a heading."""

    kind: Kind
    start: int
    end: int
    level: int = 0
    title: str = ""


class Document(msgspec.Struct, frozen=True):
    """A parsed file: `text` is what is stored and shown, and every span of ours counts its characters.

    Blocks are in order and do not overlap; text between them (link definitions, dropped directives) is shown but not searched.
    """

    title: str
    text: str
    blocks: tuple[Block, ...]


class Unreadable(InvalidRequest):
    """A file that cannot be ingested; the code says why.

    file_empty: nothing to read. file_too_large: over the bound. file_binary: not text.
    file_encoding: neither UTF-8 nor marked as another encoding. file_unsupported: no parser for this kind of name.
    """

    code = "file_unreadable"


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
