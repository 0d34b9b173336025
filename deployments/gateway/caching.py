"""What a request asks of the completion cache: `x-headrace-cache`, or what its tenant has chosen."""

import math
from collections.abc import Mapping, Sequence
from typing import get_args

import msgspec

from deployments.core.errors import InvalidRequest
from deployments.core.types import Caching, Reuse, Turn
from deployments.gateway.context import Context

MODE, THRESHOLD = "x-headrace-cache", "x-headrace-cache-threshold"


async def reusing(parts: Context, turns: Sequence[Turn], headers: Mapping[str, str]) -> list[Turn]:
    """The turns of one request as its headers want them; several answers to one question shall differ, so none of them is reused.

    Raises InvalidRequest.
    """
    wish = headers.get(MODE) or (await parts.keys.policy(turns[0].principal)).cache
    reuse = _reuse(wish, headers.get(THRESHOLD), parts.settings.cache.threshold)
    return [msgspec.structs.replace(turns[0], reuse=reuse)] if reuse and len(turns) == 1 else list(turns)


def _reuse(wish: str, threshold: str | None, least: float) -> Reuse | None:
    if wish not in get_args(Caching):
        raise InvalidRequest(f"{MODE} is one of {', '.join(get_args(Caching))}", param=MODE, code="invalid_value")
    if wish != "semantic":
        if threshold is not None:
            raise InvalidRequest(f"{THRESHOLD} goes with {MODE}: semantic", param=THRESHOLD, code="invalid_value")
        return Reuse() if wish == "exact" else None
    return Reuse(least if threshold is None else _raised(threshold, least))


def _raised(threshold: str, least: float) -> float:
    try:
        value = float(threshold)
    except ValueError:
        value = math.nan
    if not least <= value <= 1:  # NaN is neither
        raise InvalidRequest(f"{THRESHOLD} is a number from {least} to 1", param=THRESHOLD, code="invalid_value")
    return value
