"""A file's bytes to a document; the format is told by the file's name."""

import codecs
import re
import unicodedata
from collections.abc import Callable
from pathlib import PurePosixPath

from deployments.retriever.document import Block, Document, Unreadable
from deployments.retriever.html import read_html
from deployments.retriever.markdown import read_markdown
from deployments.retriever.plain import read_rst, read_text

MAX_BYTES = 32 << 20
PROBE_BYTES = 8192
BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
CHARSET = re.compile(rb"<meta[^<>]{0,100}charset=[\"']?([A-Za-z0-9_:-]{1,40})", re.IGNORECASE)
INVISIBLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff\U000e0000-\U000e01ef]"
    "|(?<=[\x20-\x7e])[\u200c\u200d]+(?=[\x20-\x7e])"
)
"""Characters that a reader does not see but a model reads: controls, zero-width, bidirectional and tag characters.

Joiners stay between letters that are not ASCII: Persian, Indic scripts and emoji need them.
"""

Reader = Callable[[str], tuple[str, str, list[Block]]]
READERS: dict[str, Reader] = {
    ".md": read_markdown,
    ".markdown": read_markdown,
    ".mdx": read_markdown,
    ".rst": read_rst,
    ".html": read_html,
    ".htm": read_html,
    ".xhtml": read_html,
    ".txt": read_text,
    ".text": read_text,
    "": read_text,
}


def parse(content: bytes, filename: str, max_bytes: int = MAX_BYTES) -> Document:
    """The document in `content`; its title falls back to the file's name. Raises Unreadable with the reason as its code."""
    path = PurePosixPath(filename)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise Unreadable(f"{path.suffix} files are not supported", code="file_unsupported")
    if len(content) > max_bytes:
        raise Unreadable(f"larger than {max_bytes} bytes", code="file_too_large")
    title, text, blocks = reader(normalise(decode(content, declared=reader is read_html)))
    if not any(block.kind != "heading" for block in blocks):
        raise Unreadable("no text in it", code="file_empty")
    return Document(title=title or path.stem or filename, text=text, blocks=tuple(blocks))


def decode(content: bytes, declared: bool = False) -> str:
    """`content` as text: by its byte order mark, its declared charset (HTML only), or UTF-8. Raises Unreadable."""
    encoding = next((name for mark, name in BOMS if content.startswith(mark)), None)
    if encoding is None and declared and (match := CHARSET.search(content[:PROBE_BYTES])):
        encoding = match[1].decode()
    if encoding is None and b"\0" in content[:PROBE_BYTES]:
        raise Unreadable("binary, not text", code="file_binary")
    try:
        return content.decode(encoding or "utf-8")
    except (UnicodeDecodeError, LookupError) as error:
        raise Unreadable(f"not valid {encoding or 'UTF-8'}", code="file_encoding") from error


def normalise(text: str) -> str:
    """`text` with line feeds only, composed (NFC), and without invisible characters.

    NFKC is not used: it would show x² as x2.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\t", "    ")
    return INVISIBLE.sub("", unicodedata.normalize("NFC", text))
