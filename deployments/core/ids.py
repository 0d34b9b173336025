"""Ids: how they are made, and what one that is not there is answered with."""

import re
import secrets
import time
from typing import TypeVar

from deployments.core.errors import NotFound

Row = TypeVar("Row")

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def new_id(prefix: str) -> str:
    """An unguessable id such as `file-3f…`: milliseconds since 1970, then 80 random bits, so that ids sort by age."""
    return f"{prefix}{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


def is_id(name: str) -> bool:
    """Whether a text could be an id."""
    return _ID.fullmatch(name) is not None


def checked(kind: str, name: str) -> str:
    """An id that could be one: what PostgreSQL would refuse as text, such as NUL, is not found like any other."""
    if not is_id(name):
        raise NotFound(f"no {kind} with that id")
    return name


def found(row: Row | None, kind: str, name: str) -> Row:
    """What was looked for; raises NotFound where it is not there."""
    if row is None:
        raise NotFound(f"no {kind} with the id '{name}'")
    return row
