"""Chat Completions beyond text: functions, several answers, probabilities."""

import asyncio
import json
from typing import Any

import pytest
from openai import APIStatusError

from deployments.core.errors import Overloaded
from deployments.core.run import Run
from deployments.core.types import Logprob, Outcome, Turn, Usage
from tests.house import House

QUESTION: list[Any] = [{"role": "user", "content": "Hi"}]
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
OTHER: dict[str, Any] = {"type": "function", "function": {"name": "g"}}


async def call_two(turn: Turn, run: Run) -> None:
    """A flow that asks for two functions."""
    writer = run.writer
    writer.open()
    writer.call(0, "call_1", "f", "")
    writer.call(0, None, None, '{"a":')
    writer.call(0, None, None, "1}")
    writer.call(1, "call_2", "g", "")
    writer.call(1, None, None, "{}")
    last = writer.finished(Outcome(writer.next_seq, "tool_calls", Usage(5, 9)))
    await run.keep((*writer.written, last))
    writer.end(last)


async def test_calls_of_functions_are_streamed_as_the_client_gathers_them(house: House) -> None:
    house.flow.answer = call_two  # type: ignore[method-assign]
    async with house.openai().chat.completions.stream(model="headrace", messages=QUESTION, tools=[TOOL, OTHER]) as stream:  # type: ignore[list-item]
        async for _ in stream:
            pass
        final = await stream.get_final_completion()
    calls: Any = final.choices[0].message.tool_calls
    assert [(call.id, call.function.name, call.function.arguments) for call in calls] == [("call_1", "f", '{"a":1}'), ("call_2", "g", "{}")]
    assert final.choices[0].finish_reason == "tool_calls"


async def test_calls_of_functions_come_whole(house: House) -> None:
    house.flow.answer = call_two  # type: ignore[method-assign]
    answer = await house.openai().chat.completions.create(model="headrace", messages=QUESTION, tools=[TOOL])  # type: ignore[list-item]
    message = answer.choices[0].message
    assert message.content is None
    assert [call.id for call in message.tool_calls or ()] == ["call_1", "call_2"]


async def test_calls_of_functions_are_items_of_a_response(house: House) -> None:
    house.flow.answer = call_two  # type: ignore[method-assign]
    tools: Any = [{"type": "function", "name": "f", "parameters": {}, "strict": False}]
    async with house.openai().responses.stream(model="headrace", input="Hi", tools=tools) as stream:
        async for _ in stream:
            pass
        final = await stream.get_final_response()
    assert [(item.type, item.call_id, item.arguments, item.status) for item in final.output] == [  # type: ignore[union-attr]
        ("function_call", "call_1", '{"a":1}', "completed"),
        ("function_call", "call_2", "{}", "completed"),
    ]


async def test_what_the_functions_gave_goes_to_the_model(house: House) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages: Any = [*QUESTION, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "call_1", "content": "42"}]
    choice: Any = {"type": "function", "function": {"name": "g"}}
    await house.openai().chat.completions.create(model="headrace", messages=messages, tools=[TOOL, OTHER], tool_choice=choice)  # type: ignore[list-item]
    turn = house.flow.turns[0]
    assert turn.messages[1].calls[0].name == "f"
    assert (turn.messages[2].role, turn.messages[2].content, turn.messages[2].call_id) == ("tool", "42", "call_1")
    assert (turn.toolbox.choice, json.loads(turn.toolbox.tools[0].parameters or b"")) == ("=g", {"type": "object"})


async def test_only_allowed_tools_are_left(house: House) -> None:
    allowed: Any = {
        "type": "allowed_tools",
        "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "g"}}]},
    }
    await house.openai().chat.completions.create(model="headrace", messages=QUESTION, tools=[TOOL, OTHER], tool_choice=allowed)  # type: ignore[list-item]
    toolbox = house.flow.turns[0].toolbox
    assert ([tool.name for tool in toolbox.tools], toolbox.choice) == (["g"], "required")


async def test_several_answers_come_side_by_side(house: House) -> None:
    answer = await house.openai().chat.completions.create(model="headrace", messages=QUESTION, n=3, seed=7)
    assert [(choice.index, choice.message.content) for choice in answer.choices] == [(n, "Hello world.") for n in range(3)]
    assert answer.usage
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (10, 6)
    assert sorted(turn.sampling.seed or 0 for turn in house.flow.turns) == [7, 8, 9]


async def test_several_answers_are_streamed_side_by_side(house: House) -> None:
    house.flow.pause_s = 0.02
    async with house.openai().chat.completions.stream(
        model="headrace", messages=QUESTION, n=2, stream_options={"include_usage": True}
    ) as stream:
        seen = [event async for event in stream]
        final = await stream.get_final_completion()
    assert seen
    assert [choice.message.content for choice in final.choices] == ["Hello world.", "Hello world."]
    assert final.usage
    assert final.usage.completion_tokens == 4


async def test_one_of_several_that_fails_is_an_error(house: House) -> None:
    house.flow.pieces, house.flow.error = [], Overloaded("busy", retry_after_s=2)
    for stream in (False, True):
        with pytest.raises(APIStatusError) as error:
            await house.openai().chat.completions.create(model="headrace", messages=QUESTION, n=2, stream=stream)
        assert error.value.status_code == 503


async def test_probabilities_come_with_their_text(house: House) -> None:
    async def say(turn: Turn, run: Run) -> None:
        house.flow.turns.append(turn)
        run.writer.open()
        run.writer.text("Hi", [Logprob("Hi", -0.5, (Logprob("Ho", -1.5),))])
        run.writer.end(run.writer.finished(Outcome(2, "stop", Usage(1, 1))))

    house.flow.answer = say  # type: ignore[method-assign]
    answer = await house.openai().chat.completions.create(model="headrace", messages=QUESTION, logprobs=True, top_logprobs=1)
    told = answer.choices[0].logprobs
    assert told
    assert told.content
    assert (told.content[0].token, told.content[0].logprob, told.content[0].top_logprobs[0].token) == ("Hi", -0.5, "Ho")
    async with house.openai().chat.completions.stream(model="headrace", messages=QUESTION, logprobs=True) as stream:
        async for _ in stream:
            pass
        final = await stream.get_final_completion()
    assert final.choices[0].logprobs
    assert house.flow.turns[0].sampling.top_logprobs == 1
    assert house.flow.turns[1].sampling.top_logprobs == 0


async def test_many_probabilities_are_cut_into_events(house: House) -> None:
    likely = tuple(Logprob("x" * 10, -1.0) for _ in range(20))

    async def say(turn: Turn, run: Run) -> None:
        run.writer.open()
        run.writer.text("word " * 100, [Logprob("word ", -0.5, likely)] * 100)
        run.writer.end(run.writer.finished(Outcome(2, "stop", Usage(1, 100))))

    house.flow.answer = say  # type: ignore[method-assign]
    async with house.http() as http:
        body = {"model": "headrace", "messages": QUESTION, "stream": True, "logprobs": True, "top_logprobs": 20}
        text = (await http.post("/v1/chat/completions", json=body)).text
    assert max(map(len, text.split("\n\n"))) < 64 << 10
    choices = [json.loads(line[6:])["choices"][0] for line in text.split("\n") if line.startswith("data: {")]
    assert "".join(choice["delta"].get("content", "") for choice in choices) == "word " * 100
    assert sum(len(choice["logprobs"]["content"]) for choice in choices if choice["logprobs"]) == 100


async def slow(turn: Turn, run: Run) -> None:
    """A flow that thinks before it speaks."""
    run.writer.open()
    await asyncio.sleep(1)
    run.writer.text("late")
    last = run.writer.finished(Outcome(2, "stop", Usage(1, 1)))
    await run.keep((*run.writer.written, last))
    run.writer.end(last)


@pytest.mark.parametrize("n", [1, 2])
async def test_an_answer_that_takes_long_to_begin_is_begun_anyway(house: House, n: int) -> None:
    house.flow.answer = slow  # type: ignore[method-assign]
    body = {"model": "headrace", "messages": QUESTION, "stream": True, "n": n}
    async with house.http() as http, http.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = [line async for line in response.aiter_lines() if line]
    assert '"role":"assistant"' in lines[0]
    assert ": keep-alive" in lines
    assert sum("late" in line for line in lines) == n
    assert lines[-1] == "data: [DONE]"


async def test_a_response_that_takes_long_to_begin_misses_no_event(house: House) -> None:
    house.flow.answer = slow  # type: ignore[method-assign]
    async with house.openai().responses.stream(model="headrace", input="Hi") as stream:
        events = [event async for event in stream]
    assert [event.type for event in events][:3] == ["response.created", "response.in_progress", "response.output_item.added"]
    assert [event.sequence_number for event in events] == list(range(len(events)))
