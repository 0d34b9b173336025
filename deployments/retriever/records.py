"""CSV, JSON Lines and JSON to a document: each record is a passage of its own, with its short fields as attributes."""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from deployments.core.filters import Value
from deployments.retriever.charset import normalise
from deployments.retriever.document import Block, Draft, Unreadable

MAX_RECORDS = 100_000
MAX_DEPTH = 16
"""How deep a record may nest; its fields are named by the path to them."""
MAX_ATTRIBUTES, MAX_KEY, MAX_VALUE, MAX_WHOLE = 16, 64, 200, 2**53
"""Attributes of a record, characters of a name and of a value, and the largest whole number; longer values are prose, not to filter by."""

_SEPARATORS = ",\t;|"
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,14})(?:\.[0-9]{1,15})?")
"""What is surely a number: no leading zeros, which codes have, no thousands, no exponent."""

Field = tuple[str, Value]


def read_csv(source: str) -> tuple[str, str, list[Block]]:
    """One record a row, named by the first row where that holds names; the separator is the one that the first row has most of."""
    source = source.lstrip("\r\n")
    first = re.split(r"[\r\n]", source, maxsplit=1)[0]
    reader = csv.reader(io.StringIO(source, newline=""), delimiter=max(_SEPARATORS, key=first.count))
    try:
        rows = [[normalise(cell).strip() for cell in row] for row in reader if any(row)]
    except csv.Error as error:
        raise Unreadable(f"line {reader.line_num}: {error}", code="file_malformed") from error
    names = rows.pop(0) if rows and _are_names(rows[0]) else []
    width = max(map(len, rows), default=0)
    names = [*names, *(f"column {number}" for number in range(len(names) + 1, width + 1))]
    numeric = [_is_numeric(rows, at) for at in range(width)]
    return _document([(names[at], _number(cell) if numeric[at] and cell else cell) for at, cell in enumerate(row)] for row in rows)


def read_jsonl(source: str) -> tuple[str, str, list[Block]]:
    """One record a line; blank lines are skipped."""
    lines = enumerate(source.split("\n"), 1)
    return _document(_flat(_json(line, f"line {number}: ")) for number, line in lines if line.strip())


def read_json(source: str) -> tuple[str, str, list[Block]]:
    """One record an element of an array, or one in all."""
    value = _json(source)
    return _document(_flat(one) for one in (value if isinstance(value, list) else [value]))


def _json(text: str, place: str = "") -> Any:
    try:
        return orjson.loads(text)
    except ValueError as error:
        raise Unreadable(f"{place}not JSON, or nested too deep: {error}"[:300], code="file_malformed") from error


def _document(records: Iterable[Sequence[Field]]) -> tuple[str, str, list[Block]]:
    draft = Draft()
    for number, fields in enumerate(records):
        if number == MAX_RECORDS:
            raise Unreadable(f"more than {MAX_RECORDS} records", code="file_too_large")
        shown = [(name, value) for name, value in fields if value != ""]
        body = "\n".join(f"{name}: {_shown(value)}" if name and len(fields) > 1 else _shown(value) for name, value in shown)
        short = [(name, value) for name, value in shown if 0 < len(name) <= MAX_KEY and _is_short(value)]
        draft.add("record", body, attributes=dict(short[:MAX_ATTRIBUTES]))
    return draft.parsed()


def _flat(record: object) -> list[Field]:
    """The values in a record, each named by the path to it; a list of values is one text. Raises Unreadable where it nests too deep."""
    fields: list[Field] = []
    left: list[tuple[tuple[str, ...], object]] = [((), record)]
    while left:
        path, value = left.pop()
        if len(path) > MAX_DEPTH:
            raise Unreadable(f"a record is nested deeper than {MAX_DEPTH} levels", code="file_malformed")
        if isinstance(value, list) and not any(isinstance(one, dict | list) for one in value):
            value = ", ".join(_shown(one) for one in value if one is not None)
        if isinstance(value, dict | list):
            inner = value.items() if isinstance(value, dict) else enumerate(value, 1)
            left += reversed([((*path, normalise(str(key))[: 2 * MAX_KEY]), one) for key, one in inner])
        elif value is not None:
            fields.append((".".join(path), normalise(value).strip() if isinstance(value, str) else value))  # type: ignore[arg-type]
    return fields


def _shown(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is_short(value: Value) -> bool:
    if isinstance(value, str):
        return len(value) <= MAX_VALUE
    return isinstance(value, float) or abs(value) <= MAX_WHOLE


def _are_names(row: Sequence[str]) -> bool:
    """Whether a first row names the columns: short, all there, all different, and no numbers."""
    return len(set(row)) == len(row) and all(0 < len(cell) <= MAX_KEY and not _NUMBER.fullmatch(cell) for cell in row)


def _is_numeric(rows: Sequence[Sequence[str]], at: int) -> bool:
    return all(_NUMBER.fullmatch(row[at]) for row in rows if len(row) > at and row[at])


def _number(cell: str) -> float:
    return float(cell) if "." in cell else int(cell)
