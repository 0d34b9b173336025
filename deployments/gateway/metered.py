"""Requests that no backend answers, such as uploads and searches: they count against the caller's limits all the same."""

import contextlib
from collections.abc import AsyncGenerator, Iterable

from fastapi import Response

from deployments.core.lease import Want
from deployments.core.types import Principal
from deployments.gateway.context import Context

_BYTES_PER_TOKEN = 4

EMBED, FILES = "headrace-embed", "headrace-files"
"""What such requests are booked under."""


@contextlib.asynccontextmanager
async def metered(parts: Context, caller: Principal, response: Response, model: str, tokens: int = 0) -> AsyncGenerator[None]:
    """Admit a request that reads so many tokens, and tell its limits in the headers; raises what admission refuses with."""
    async with parts.gate.admit(caller, Want(model, tokens, 0, 0, parts.settings.gateway.deadline_s, slot=False)) as lease:
        response.raw_headers += lease.headers
        yield


def tokens_of(texts: Iterable[str]) -> int:
    """An estimate of what the embedder reads: no tokenizer of it is loaded here."""
    return sum(len(text.encode()) // _BYTES_PER_TOKEN + 1 for text in texts)
