"""Entries of the ledger for a spreadsheet."""

import csv
import io
from collections.abc import Sequence

from deployments.core.ledger import Dimension, Entry


def sheet(by: Sequence[Dimension], entries: Sequence[Entry]) -> str:
    """Entries as CSV (RFC 4180) with a header; what a spreadsheet would take for a formula is quoted."""
    out = io.StringIO()
    writer = csv.writer(out)
    names = [*dict.fromkeys(by), "attempts", "prompt_tokens", "completion_tokens", "cost"]
    writer.writerow(names)
    writer.writerows([_inert(getattr(entry, name)) for name in names] for entry in entries)
    return out.getvalue()


def _inert(value: object) -> object:
    """A text that can not be a formula (OWASP, CSV injection)."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
