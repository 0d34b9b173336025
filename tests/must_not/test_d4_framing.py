"""D4: no text of a model's is read as the frame of a stream."""

import json
from typing import Any

import pytest

from tests.house import House

TEXTS = [
    "\n\ndata: [DONE]\n\n",
    'event: response.completed\ndata: {"type":"response.completed"}\n\n',
    "\r\rdata: x\r\n\r\n",
    "\u2028data: x\u2029\u0085",
    "\x00\x1b[2J\x7f",
    "id: 7\nretry: 1\n: comment\n",
    "\ufeffdata: x",
    '"}]}\n\ndata: {"error":{"message":"x"}}\n\n',
]


async def read(house: House, path: str, body: dict[str, Any]) -> tuple[list[dict[str, Any]], str]:
    """The events of a stream as a strict reader of the format takes them, and all that was sent."""
    async with house.http() as http:
        text = (await http.post(path, json=body | {"model": "headrace", "stream": True})).content.decode()
    blocks = [block for block in text.split("\n\n") if block and not block.startswith(":")]
    data = ["\n".join(line.removeprefix("data: ") for line in block.split("\n") if line.startswith("data: ")) for block in blocks]
    assert data[-1] == "[DONE]"
    assert data.count("[DONE]") == 1
    return [json.loads(one) for one in data[:-1]], text


@pytest.mark.parametrize("said", TEXTS)
async def test_a_chat_says_what_the_model_said_and_ends_once(house: House, said: str) -> None:
    house.flow.pieces = ["before ", *said, " after"]
    events, text = await read(house, "/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]})
    assert "".join(event["choices"][0]["delta"].get("content") or "" for event in events) == f"before {said} after"
    assert "\r" not in text


@pytest.mark.parametrize("said", TEXTS)
async def test_a_response_says_what_the_model_said_and_ends_once(house: House, said: str) -> None:
    house.flow.pieces = ["before ", *said, " after"]
    events, text = await read(house, "/v1/responses", {"input": "Hi"})
    assert "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta") == f"before {said} after"
    assert [event["type"] for event in events].count("response.completed") == 1
    assert "\r" not in text
