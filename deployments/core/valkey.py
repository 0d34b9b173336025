"""One way to connect to Valkey or Redis."""

import asyncio
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import TimeoutError as ReplyTimeout

_REPLY_S = 5
"""Within this time Valkey answers a command, or it counts as away. Pipelines are bounded by who sends them."""


class _Client(Redis):
    """A client that bounds its commands itself: redis-py 8.1 loses a cancellation that meets its own read timeout, in one of four."""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """The reply; raises redis' TimeoutError where none comes."""
        try:
            async with asyncio.timeout(_REPLY_S):
                return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        except TimeoutError as error:
            raise ReplyTimeout("no reply") from error


def connect(url: str) -> Redis:
    """A client that speaks RESP3, returns bytes, and never repeats a command by itself: its callers know what may be sent twice."""
    return _Client.from_url(
        url,
        protocol=3,
        retry=Retry(NoBackoff(), 0),
        socket_connect_timeout=2,
        socket_timeout=None,
        max_connections=64,
    )
