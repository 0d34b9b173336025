"""One way to connect to Valkey or Redis."""

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff


def connect(url: str, reply_timeout_s: float | None = 5) -> Redis:
    """A client that speaks RESP3, returns bytes, and never repeats a command by itself: its callers know what may be sent twice.

    With `reply_timeout_s` None the caller bounds each call itself, which saves a timer for every reply of a pipeline.
    """
    return Redis.from_url(
        url, protocol=3, retry=Retry(NoBackoff(), 0), socket_connect_timeout=2, socket_timeout=reply_timeout_s, max_connections=64
    )
