"""POST /v1/completions, the legacy shape."""

import json
from typing import Any

import pytest
from openai import BadRequestError

from tests.house import House


async def streamed(house: House, **fields: Any) -> list[dict[str, Any]]:
    """The chunks of a stream; read by hand, as the client's strict models do not know the null that all servers send."""
    async with house.http() as http:
        body = (await http.post("/v1/completions", json={"model": "headrace", "stream": True} | fields)).text
    assert body.endswith("data: [DONE]\n\n")
    return [json.loads(line[6:]) for line in body.split("\n") if line.startswith("data: {")]


async def test_a_prompt_is_answered_whole(house: House) -> None:
    answer = await house.openai().completions.create(model="headrace-direct", prompt="Hi")
    assert (answer.object, answer.choices[0].text, answer.choices[0].finish_reason) == ("text_completion", "Hello world.", "stop")
    assert answer.usage
    assert answer.usage.total_tokens == 12
    assert [(message.role, message.content) for message in house.flow.turns[0].messages] == [("user", "Hi")]


async def test_a_prompt_is_answered_as_a_stream_with_its_usage(house: House) -> None:
    chunks = await streamed(house, prompt="Hi", stream_options={"include_usage": True})
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks if chunk["choices"]) == "Hello world."
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["usage"]["total_tokens"] == 12
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}


async def test_several_prompts_are_answered_in_their_places(house: House) -> None:
    whole = await house.openai().completions.create(model="headrace", prompt=["one", "two"], echo=True)
    assert [choice.text for choice in whole.choices] == ["oneHello world.", "twoHello world."]
    assert whole.usage
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (20, 4)
    texts = ["", ""]
    for chunk in await streamed(house, prompt=["one", "two"], echo=True):
        for choice in chunk["choices"]:
            texts[choice["index"]] += choice["text"]
    assert texts == ["oneHello world.", "twoHello world."]


async def test_a_prompt_is_answered_several_times(house: House) -> None:
    answer = await house.openai().completions.create(model="headrace", prompt="one", n=3, seed=4, echo=True)
    assert [choice.text for choice in answer.choices] == ["oneHello world."] * 3
    assert sorted((turn.question, turn.sampling.seed) for turn in house.flow.turns) == [("one", 4), ("one", 5), ("one", 6)]
    assert answer.usage
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (10, 6)


async def test_a_long_echo_is_cut_into_events(house: House) -> None:
    chunks = await streamed(house, prompt="x" * 19_000, echo=True)
    texts = [chunk["choices"][0]["text"] for chunk in chunks]
    assert "".join(texts) == "x" * 19_000 + "Hello world."
    assert max(map(len, texts)) <= 8000


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": [1, 2, 3]}, "prompt"),
        ({"prompt": [[1], [2]]}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["x"] * 5}, "prompt"),
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"n": 5}, "n"),
        ({"prompt": ["one", "two", "three"], "n": 2}, "n"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": ["x", ""]}, "prompt"),
        ({"logprobs": 3}, "logprobs"),
        ({"max_tokens": 101}, "max_tokens"),
    ],
)
async def test_bad_input_is_named(house: House, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequestError) as error:
        await house.openai().completions.create(**({"model": "headrace", "prompt": "Hi"} | fields))
    assert error.value.param == param
