"""Pages of what callers keep, as all lists of files and vector stores give them."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import Query, Response

from deployments.core.errors import Unsupported

After = Annotated[str, Query(max_length=80, pattern="^[A-Za-z0-9_-]*$")]
"""The id that a page begins after; what no id can be finds nothing in any database."""
Limit = Annotated[int, Query(ge=1, le=100)]
Order = Literal["asc", "desc"]

POLL_AFTER_MS = "500"
"""How long the client's polling helpers wait before they ask again."""


def polled(response: Response) -> None:
    """Tell a client that polls when to ask again."""
    response.headers["openai-poll-after-ms"] = POLL_AFTER_MS


def forward(before: str) -> None:
    """Raises Unsupported for a page that goes backwards."""
    if before:
        raise Unsupported("pages go forward only; use after", param="before")


def page(data: Sequence[dict[str, Any]], limit: int) -> dict[str, Any]:
    """A page of at most `limit`, made from one more where there are more."""
    shown = list(data[:limit])
    ends = {"first_id": shown[0]["id"], "last_id": shown[-1]["id"]} if shown else {"first_id": None, "last_id": None}
    return {"object": "list", "data": shown, **ends, "has_more": len(data) > limit}
