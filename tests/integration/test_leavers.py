"""Clients that leave in a burst: nothing goes on for them, nothing stays reserved, and what was written is settled to the token."""

import asyncio
import contextlib
import random
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from redis.asyncio import Redis

from deployments.core.log import read
from deployments.core.tokenizer import Vocabulary
from deployments.core.types import Finished, LogRef, Message, Text
from tests.fakes import until
from tests.integration.conftest import Stack

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

RATES = {"requests_per_minute": 60_000, "tokens_per_minute": 600_000}
"""A request is a millisecond of the first, a token a tenth of one of the second: both are sums without a rounding error."""

_BODY = b'{"model":"headrace-direct","stream":true,"messages":[{"role":"user","content":"Hi"}]}'
_CONTENT = re.compile(rb'"content":"([^"]+)"')

AHEAD_MS = 40_000
"""The rates begin so far ahead of the clock that their times are mere sums: nothing of them passes while the test runs."""


@dataclass(frozen=True)
class Balance:
    """What somebody holds a tenant to have used."""

    requests: int
    tokens: int


@contextlib.asynccontextmanager
async def asking(stack: Stack, key: str) -> AsyncIterator[asyncio.StreamReader]:
    """What comes back for a question, until it is left; no client library, as a thousand of them at once are slower than the gateway."""
    reader, writer = await asyncio.open_connection("127.0.0.1", stack.port)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{stack.port}\r\nauthorization: Bearer {key}\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(_BODY)}\r\n\r\n"
    writer.write(head.encode() + _BODY)
    try:
        yield reader
    finally:
        writer.close()


async def begin(valkey: Redis, tenant: str) -> int:
    """Set the tenant's rates to a time ahead; returns it, in ms."""
    seconds, micros = await valkey.time()
    start = seconds * 1000 + micros // 1000 + AHEAD_MS
    await valkey.hset(f"hr:{{{tenant}}}:rate", mapping={"tenant:requests": start, "tenant:tokens": start})
    return start


async def rated(valkey: Redis, tenant: str, start: int) -> Balance:
    """What the rates have been charged since."""
    requests, tokens = await valkey.hmget(f"hr:{{{tenant}}}:rate", "tenant:requests", "tenant:tokens")
    return Balance(round(float(requests) - start), round((float(tokens) - start) * 10))


async def counted(valkey: Redis, tenant: str) -> Balance:
    """What the quotas of the day have been charged."""
    requests, tokens = await valkey.hmget(f"hr:{{{tenant}}}:rate", "day_requests", "day_tokens")
    return Balance(int(requests), int(tokens))


async def logged(valkey: Redis, tenant: str) -> tuple[int, int, int]:
    """The tenant's responses, and the tokens read and written for them, as their recorded logs tell.

    What a backend says of an answer that ended; of one that was called off, what its log holds, and the prompt where it holds anything.
    """
    prompt = await Vocabulary(None).count([Message("user", "Hi")])
    responses = asked = written = 0
    async for name in valkey.scan_iter(match=f"hr:{{{tenant}}}:log:*", count=1000):
        log = await read(valkey, LogRef(name.decode().rsplit(":", 1)[1], tenant, (), record=True))
        tokens = sum(delta.tokens for delta in log if isinstance(delta, Text))
        responses += 1
        if isinstance(log[-1], Finished):
            asked, written = asked + log[-1].usage.prompt_tokens, written + log[-1].usage.completion_tokens
        else:
            asked, written = asked + prompt * (tokens > 0), written + tokens
    return responses, asked, written


async def held(valkey: Redis, tenant: str) -> list[object]:
    """Leases, slots and places in the queue that are held, and what of them is the tenant's."""
    fields = ["run", "wait", f"of:{tenant}", f"at:{tenant}"]
    return [await valkey.hlen("hr:adm:leases"), *await valkey.hmget("hr:adm:pool", *fields)]


@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.full)])
async def test_clients_that_leave_in_a_burst_leave_nothing_and_pay_for_what_was_written(stack: Stack, count: int) -> None:
    backend, tenant, chance = stack.backend, f"leavers-{count}", random.Random(3)
    assert backend
    await asyncio.to_thread(stack.until, lambda: backend.stats()["open"] == 0, "the end of what earlier tests asked")
    await asyncio.to_thread(backend.reset)
    key = await stack.tenant(tenant, **RATES, tokens_per_day=10**9)
    statuses, seen = Counter[str](), Counter[str]()

    async def leave(number: int) -> None:
        """Every other client goes at some time, perhaps before anything has come, the others after some words, however slow all is."""
        await asyncio.sleep(number * 0.004)
        within_s, words = (chance.uniform(0.01, 0.8), 1000) if number % 2 else (20, chance.randrange(40))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s), asking(stack, key) as reader:
                statuses[(await reader.readline())[9:12].decode()] += 1
                async for line in reader:
                    new = sum(len(text.split()) for text in _CONTENT.findall(line))
                    seen["tokens"] += new
                    words -= new
                    if words < 0:
                        return

    async with stack.valkey() as valkey:
        start = await begin(valkey, tenant)
        await asyncio.gather(*(leave(number) for number in range(count)))
        left = time.monotonic()
        await asyncio.sleep(1)
        still = (await asyncio.to_thread(backend.stats))["open"]
        await asyncio.to_thread(stack.until, lambda: backend.stats()["open"] == 0, "the end of all generations")
        await until(lambda: held(valkey, tenant), equals=[0, None, None, None, None])
        free_s = time.monotonic() - left
        balance = await rated(valkey, tenant, start)
        await until(lambda: books(stack, tenant), equals=balance, within_s=5)
        assert await counted(valkey, tenant) == balance
        responses, asked, written = await logged(valkey, tenant)
    _, prompt, completion = await stack.used(tenant)
    stats = await asyncio.to_thread(backend.stats)
    sent = sum(entry["tokens_sent"] for entry in stats["ended"])
    figures = f"{still} of {len(stats['ended'])} generations ran 1 s later, nothing was held after {free_s:.1f} s; "
    figures += f"{prompt} + {completion} tokens booked, {asked} + {written} in the logs; {seen['tokens']} seen, {sent} sent by the backend"
    print(f"{count} clients left in a burst: {figures}; statuses {dict(statuses)}, {balance.requests} requests, {responses} logs")  # noqa: T201
    assert still == 0
    assert (prompt, completion) == (asked, written)
    assert responses <= balance.requests <= count
    assert seen["tokens"] <= completion <= sent
    assert sent - completion <= 16 * len(stats["ended"])


async def books(stack: Stack, tenant: str) -> Balance:
    """What the books hold."""
    requests, prompt, completion = await stack.used(tenant)
    return Balance(requests, prompt + completion)
