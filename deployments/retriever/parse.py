"""A file's bytes to a document; the format is told by the file's name."""

from collections.abc import Callable
from pathlib import PurePosixPath

from deployments.retriever.charset import decode, normalise
from deployments.retriever.code import read_code
from deployments.retriever.document import Block, Document, Unreadable
from deployments.retriever.docx import read_docx
from deployments.retriever.html import read_html
from deployments.retriever.markdown import read_markdown
from deployments.retriever.pdf import read_pdf
from deployments.retriever.plain import read_rst, read_text
from deployments.retriever.records import read_csv, read_json, read_jsonl

MAX_BYTES = 32 << 20

Parsed = tuple[str, str, list[Block]]
"""Title ("" where there is none), text and blocks."""

READERS: dict[str, Callable[[str], Parsed]] = {
    **dict.fromkeys((".md", ".markdown", ".mdx"), read_markdown),
    ".rst": read_rst,
    **dict.fromkeys((".html", ".htm", ".xhtml"), read_html),
    **dict.fromkeys((".txt", ".text", ".log", ""), read_text),
    **dict.fromkeys(
        ".py .pyi .js .mjs .jsx .ts .tsx .java .kt .scala .go .rs .c .h .cc .cpp .hpp .cs .swift .m .rb .php .pl .lua .r .jl .ex .exs .hs "
        ".sh .bash .ps1 .sql .proto .css .toml .yaml .yml .ini .cfg".split(),
        read_code,
    ),
}
FIELDS: dict[str, Callable[[str], Parsed]] = {
    **dict.fromkeys((".csv", ".tsv"), read_csv),
    **dict.fromkeys((".jsonl", ".ndjson"), read_jsonl),
    ".json": read_json,
}
"""Formats in which white space has a meaning: their values are cleaned when they have been told apart."""
BINARY: dict[str, Callable[[bytes], Parsed]] = {".pdf": read_pdf, ".docx": read_docx}
SUFFIXES = frozenset(suffix for suffix in (*READERS, *FIELDS, *BINARY) if suffix)
"""The names that are read; a file without a suffix is read as text."""


def parse(content: bytes, filename: str, max_bytes: int = MAX_BYTES) -> Document:
    """The document in `content`; its title falls back to the file's name. Raises Unreadable with the reason as its code."""
    path = PurePosixPath(filename)
    suffix = path.suffix.lower()
    if suffix and suffix not in SUFFIXES:
        raise Unreadable(f"{path.suffix} files are not supported", code="file_unsupported")
    if len(content) > max_bytes:
        raise Unreadable(f"larger than {max_bytes} bytes", code="file_too_large")
    if not content:
        raise Unreadable("no text in it", code="file_empty")
    title, text, blocks = _read(content, suffix)
    if not any(block.kind != "heading" for block in blocks):
        raise Unreadable("no text in it", code="file_empty")
    return Document(title=title or path.stem or filename, text=text, blocks=tuple(blocks))


def _read(content: bytes, suffix: str) -> Parsed:
    if reader := BINARY.get(suffix):
        return reader(content)
    if reader := FIELDS.get(suffix):
        return reader(decode(content))
    reader = READERS[suffix]
    return reader(normalise(decode(content, declared=reader is read_html)))
