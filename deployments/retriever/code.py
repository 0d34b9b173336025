"""Source code to a document: what stands together at the left margin is a block, such as a whole definition; no language is assumed."""

import re

from deployments.retriever.document import Block, lines, trim

_CLOSES = re.compile(
    r"[)\]}>;,|&]|</|\"{3}|'{3}|\{[ ]*$|"
    r"(?:end|fi|done|esac|else|elif|except|finally|catch|then|do|begin|rescue|ensure|in|where|with)\b"
)
"""A line at the margin that goes on with what is above it."""
_REMARK = re.compile(r"[ ]*(?:#(?![ ]*(?:include|define|if|pragma))|//|/\*|\*|--|;|%|@|\[[^\]]*\]$|\"{3}|'{3})")
"""A line that speaks of what is below it: a comment, a decorator, an annotation."""
MAX_SIGNATURE = 100


def read_code(source: str) -> tuple[str, str, list[Block]]:
    """No title, the text, and its blocks; the title of a block is the line that names what it defines."""
    text = source.strip("\n").rstrip()
    starts, rows = lines(text), text.split("\n")
    blocks: list[Block] = []
    firsts = [row for row in range(len(rows)) if not row or _begins(rows[row - 1], rows[row])]
    for first, last in zip(firsts, [*firsts[1:], len(rows)], strict=True):
        start, end = starts[first], trim(text, starts[first], starts[last])[1]
        if text[start:end].strip():
            blocks.append(Block("code", start, end, title=_signature(rows[first:last])))
    return "", text, blocks


def _begins(above: str, row: str) -> bool:
    return not above.strip() and bool(row.strip()) and not row[0].isspace() and not _CLOSES.match(row)


def _signature(rows: list[str]) -> str:
    """The first line that is no remark, where more lines belong to it; "" where none do."""
    named = (number for number, row in enumerate(rows) if row.strip() and not _REMARK.match(row))
    at = next(named, None)
    within = at is not None and any(row[:1].isspace() and row.strip() for row in rows[at + 1 :])
    return rows[at].strip().rstrip("{:").strip()[:MAX_SIGNATURE] if at is not None and within else ""
