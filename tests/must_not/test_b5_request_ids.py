"""B5: an id that a client makes up is never a key that two tenants share."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from deployments.core.keys import Keys
from tests.fakes import SCOPES
from tests.house import House


async def crossings(house: House, pairs: int) -> list[str]:
    """Ask as two tenants at once, with the same ids and other words; returns what one heard of the other."""
    house.flow.echoes = True
    keys = Keys(house.context.store, b"pepper")
    await keys.add_tenant("other", "other")
    found: list[str] = []
    async with house.http() as ours, house.http((await keys.mint("other", SCOPES)).secret) as others:
        for number in range(pairs):
            same = f"same-{number}"
            names = ("x-request-id", "idempotency-key", "x-session-id", "openai-organization", "x-headrace-cache-key")
            headers = dict.fromkeys(names, same)
            shared: dict[str, Any] = {"user": same, "safety_identifier": same, "prompt_cache_key": same, "metadata": {"session": same}}
            said = [f"ours-{number}-canary", f"others-{number}-canary"]
            if number % 2:
                path, shapes = "/v1/responses", [{"input": words} | shared for words in said]
            else:
                path, shapes = "/v1/chat/completions", [{"messages": [{"role": "user", "content": words}]} | shared for words in said]
            bodies = [{"model": "headrace", "stream": number % 3 == 0} | shape for shape in shapes]
            clients = (ours, others)
            asked = (client.post(path, json=body, headers=headers) for client, body in zip(clients, bodies, strict=True))
            answers = await asyncio.gather(*asked)
            for answer, mine, foreign in zip(answers, said, said[::-1], strict=True):
                assert answer.status_code == 200, answer.text
                if foreign in answer.text or mine not in answer.text:
                    found.append(answer.text)
    return found


@pytest.mark.parametrize("pairs", [200, pytest.param(1000, marks=pytest.mark.full)])
async def test_the_same_ids_of_two_tenants_never_meet(house: House, cases: Callable[[int], None], pairs: int) -> None:
    cases(pairs)
    assert await crossings(house, pairs) == []
