"""Bytes to clean text: which encoding they are in, and what no reader sees taken out."""

import codecs
import re
import unicodedata

from deployments.retriever.document import Unreadable

PROBE_BYTES = 8192
BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
CHARSET = re.compile(rb"<meta[^<>]{0,100}charset=[\"']?([A-Za-z0-9_:-]{1,40})", re.IGNORECASE)
INVISIBLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff\U000e0000-\U000e01ef]"
    "|(?<=[\x20-\x7e])[\u200c\u200d]+(?=[\x20-\x7e])"
)
"""Characters that a reader does not see but a model reads: controls, zero-width, bidirectional and tag characters.

Joiners stay between letters that are not ASCII: Persian, Indic scripts and emoji need them.
"""


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
