"""PDF to a document: its text in reading order, headings by the size of their letters; tables come out as text.

pdfminer is in memory only where a PDF is read.
"""

import re
from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from typing import Any

from deployments.retriever.charset import normalise
from deployments.retriever.document import Block, Draft, Unreadable

MAX_PAGES = 5000
_HEADING_SIZE = 1.15
"""How much larger than the body a heading is."""
_HEADING_CHARACTERS = 150
_LEVELS = 3
_REPEATED = 4
"""Pages from which on a line at the same height of more than half of them is a header or a footer."""
_HYPHEN = re.compile(r"(?<=[^\W\d_])-\n(?=[a-z])")

Box = tuple[int, float, str]
"""Letter size in quarters of a point, height of its upper edge on the page, text."""


def read_pdf(content: bytes) -> tuple[str, str, list[Block]]:
    """Title, text and blocks; raises Unreadable for what is encrypted, broken, too long, or only pictures."""
    pages = _pages(content)
    boxes = _body(pages)
    if not boxes:
        raise Unreadable("no text in it: pages that are pictures need text recognition first", code="file_empty")
    sizes: Counter[int] = Counter()
    for size, _, text in boxes:
        sizes[size] += len(text)
    body = sizes.most_common(1)[0][0]
    larger = sorted((size for size, _, text in boxes if _is_heading(size, text, body)), reverse=True)
    levels = {size: min(level, _LEVELS) for level, size in enumerate(dict.fromkeys(larger), 1)}
    draft = Draft()
    for size, _, text in boxes:
        if _is_heading(size, text, body):
            draft.heading(levels[size], text)
        else:
            draft.add("text", text)
    return draft.parsed()


def _pages(content: bytes) -> list[list[Box]]:
    from pdfminer.high_level import extract_pages
    from pdfminer.pdfdocument import PDFEncryptionError, PDFPasswordIncorrect

    pages: list[list[Box]] = []
    if not content.lstrip().startswith(b"%PDF"):
        raise Unreadable("not a PDF", code="file_malformed")
    try:
        for page in extract_pages(BytesIO(content)):
            if len(pages) == MAX_PAGES:
                raise Unreadable(f"more than {MAX_PAGES} pages", code="file_too_large")
            pages.append(list(_boxes(page)))
    except (PDFPasswordIncorrect, PDFEncryptionError) as error:
        raise Unreadable("protected by a password", code="file_encrypted") from error
    except (Unreadable, MemoryError):
        raise
    except Exception as error:  # a broken file fails anywhere in there
        raise Unreadable(f"a broken PDF: {type(error).__name__}", code="file_malformed") from error
    if not pages:
        raise Unreadable("a broken PDF: it has no pages", code="file_malformed")
    return pages


def _boxes(page: Any) -> Iterator[Box]:
    from pdfminer.layout import LTChar, LTTextContainer, LTTextLine

    for box in page:
        if not isinstance(box, LTTextContainer):
            continue
        lines = [line for line in box if isinstance(line, LTTextLine)]
        letters = [letter.size for line in lines for letter in line if isinstance(letter, LTChar)]
        text = "\n".join(" ".join(line.get_text().split()) for line in lines)
        text = _HYPHEN.sub("", normalise(text)).strip()
        if text and letters:
            yield round(sorted(letters)[len(letters) // 2] * 4), box.y1, text


def _body(pages: list[list[Box]]) -> list[Box]:
    """All boxes but the headers and footers: what differs only in its digits at the same height of more than half of the pages."""
    seen = Counter(place for page in pages for place in {_place(box) for box in page})
    often = len(pages) // 2 if len(pages) >= _REPEATED else len(pages)
    return [box for page in pages for box in page if seen[_place(box)] <= often]


def _place(box: Box) -> tuple[int, str]:
    return round(box[1]), re.sub(r"\d+", "0", box[2])


def _is_heading(size: int, text: str, body: int) -> bool:
    return size >= body * _HEADING_SIZE and len(text) <= _HEADING_CHARACTERS
