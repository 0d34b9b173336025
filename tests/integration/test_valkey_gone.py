"""The whole stack under load while its Valkey is killed: nobody is refused for who they are, nothing goes unmetered."""

import asyncio
import json
import time
from collections import Counter

import httpx2
import psutil
import pytest

from tests.integration.conftest import Stack

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1200)]

CLIENTS = 20
CALM_S = 11
"""A Valkey that dies younger is started again only after a pause, which grows."""


@pytest.mark.parametrize("kills", [1, pytest.param(10, marks=pytest.mark.full)])
async def test_without_valkey_nobody_is_a_stranger_and_nothing_is_free(pair: Stack, kills: int) -> None:
    statuses, answered, over = Counter[int](), list[float](), asyncio.Event()
    told: list[dict[str, int]] = []
    body = {"model": "headrace-direct", "stream": True, "stream_options": {"include_usage": True}}
    body |= {"messages": [{"role": "user", "content": "Hi"}]}

    async def client(http: httpx2.AsyncClient) -> None:
        while not over.is_set():
            async with http.stream("POST", "/v1/chat/completions", json=body) as response:
                statuses[response.status_code] += 1
                text = (await response.aread()).decode()
            if response.status_code != 200:
                assert "retry-after-ms" in response.headers
                continue
            usage = [json.loads(line[6:]).get("usage") for line in text.splitlines() if line.startswith("data: {")]
            told.append(next(one for one in usage if one))
            answered.append(time.monotonic())

    headers = {"authorization": f"Bearer {await pair.tenant(f'gone-{kills}')}"}
    async with httpx2.AsyncClient(base_url=pair.url, headers=headers, timeout=60) as http:
        load = [asyncio.create_task(client(http)) for _ in range(CLIENTS)]
        gaps: list[float] = []
        for _ in range(kills):
            await asyncio.sleep(CALM_S if kills > 1 else 3)
            valkey = pair.named("valkey.conf")
            valkey.kill()
            killed = time.monotonic()
            psutil.wait_procs([valkey], timeout=5)
            await asyncio.to_thread(pair.until, lambda: pair.named("valkey.conf").is_running(), "another Valkey", 20)
            back = time.monotonic()
            while not (answered and answered[-1] > back):
                assert time.monotonic() < back + 20
                await asyncio.sleep(0.02)
            gaps.append(next(moment for moment in answered if moment > back) - killed)
        over.set()
        await asyncio.gather(*load)
    await asyncio.sleep(2)
    requests, prompt, completion = await pair.used(f"gone-{kills}")
    said = sum(one["completion_tokens"] for one in told)
    figures = f"{requests} requests and {completion} tokens in the books, {statuses[200]} and {said} told"
    print(f"Valkey killed {kills} times: {dict(statuses)}, answers again after at most {max(gaps):.2f} s; {figures}")  # noqa: T201
    assert set(statuses) <= {200, 503}
    assert requests == statuses[200]
    assert prompt == sum(one["prompt_tokens"] for one in told)
    assert completion == said
    assert max(gaps) < 10
