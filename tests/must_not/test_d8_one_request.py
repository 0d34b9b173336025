"""D8: one request can't exhaust the machine: every extreme body is refused, soon and without the flow seeing it."""

import json
import time

import pytest

from tests.house import House

HI = [{"role": "user", "content": "Hi"}]
BODIES = {
    "deep": "[" * 9000 + "]" * 9000,
    "deep object": '{"a":' * 3000 + "1" + "}" * 3000,
    "many keys": json.dumps({f"k{i}": i for i in range(1500)}),
    "long number": '{"model":"headrace-direct","messages":[{"role":"user","content":"Hi"}],"seed":' + "9" * 15000 + "}",
    "many messages": json.dumps({"model": "headrace-direct", "messages": HI * 300}),
    "many tokens": json.dumps({"model": "headrace-direct", "messages": HI, "max_tokens": 10**9}),
    "many choices": json.dumps({"model": "headrace-direct", "messages": HI, "n": 10**6}),
    "many stops": json.dumps({"model": "headrace-direct", "messages": HI, "stop": ["x"] * 1000}),
    "long stop": json.dumps({"model": "headrace-direct", "messages": HI, "stop": "x" * 10000}),
    "logprobs": json.dumps({"model": "headrace-direct", "messages": HI, "logprobs": True, "top_logprobs": 10**6}),
    "logit bias": json.dumps({"model": "headrace-direct", "messages": HI, "logit_bias": {str(i): 1 for i in range(1000)}}),
    "infinity": '{"model":"headrace-direct","messages":[{"role":"user","content":"Hi"}],"temperature":Infinity}',
    "long model": json.dumps({"model": "x" * 15000, "messages": HI}),
    "nul": '{"model":"headrace-direct\\u0000","messages":[{"role":"user","content":"Hi"}]}',
}


@pytest.mark.parametrize("name", list(BODIES))
async def test_an_extreme_body_is_refused_at_once(house: House, name: str) -> None:
    async with house.http() as http:
        started = time.perf_counter()
        response = await http.post("/v1/chat/completions", content=BODIES[name], headers={"content-type": "application/json"})
        took = time.perf_counter() - started
    assert 400 <= response.status_code < 500
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert len(response.content) < 1000
    assert took < 2
    assert not house.flow.turns
