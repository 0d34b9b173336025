"""POST /v1/chat/completions over a real socket."""

import asyncio
import json
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from deployments.core.errors import Overloaded, StreamInterrupted
from deployments.core.types import Citation
from tests.fakes import until
from tests.house import House

QUESTION: list[Any] = [{"role": "user", "content": "Hi"}]
F: dict[str, Any] = {"type": "function", "function": {"name": "f"}}
CALLS: list[Any] = [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
CITED = ["Hello ", "[1]", Citation(6, 9, 1, "https://rag.example/files/file_1", "handbook.md")]


def body(**fields: object) -> dict[str, object]:
    return {"model": "headrace-direct", "messages": QUESTION} | fields


async def events(house: House, **fields: object) -> list[str]:
    """The data of each event of a streamed answer."""
    async with house.http() as http, http.stream("POST", "/v1/chat/completions", json=body(stream=True, **fields)) as response:
        text = (await response.aread()).decode()
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert all(block.startswith("data: ") or block == ": keep-alive" for block in text.split("\n\n") if block)
    return [block.removeprefix("data: ") for block in text.split("\n\n") if block.startswith("data: ")]


async def test_no_key_is_401(house: House) -> None:
    async with house.http(None) as http:
        response = await http.post("/v1/chat/completions", json=body())
    assert response.status_code == 401
    assert response.json()["error"]["code"] == "invalid_api_key"


async def test_a_wrong_key_is_401(house: House) -> None:
    async with house.openai("hr_wrong") as client:
        with pytest.raises(openai.AuthenticationError):
            await client.chat.completions.create(model="headrace", messages=QUESTION)


async def test_a_key_without_the_scope_is_403(house: House) -> None:
    key = await house.context.keys.mint("ours", ["files:read"])
    async with house.openai(key.secret) as client:
        with pytest.raises(openai.PermissionDeniedError):
            await client.chat.completions.create(model="headrace", messages=QUESTION)


@pytest.mark.parametrize(
    ("fields", "status", "code", "param"),
    [
        ({"model": "gpt-9"}, 404, "model_not_found", "model"),
        ({"messages": []}, 400, "invalid_value", "messages"),
        ({"messages": QUESTION * 6}, 400, "too_many_messages", "messages"),
        ({"messages": [{"role": "user"}]}, 400, "invalid_value", "messages[0]"),
        ({"messages": [{"content": "x"}]}, 400, "missing_required_parameter", "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "invalid_value", "messages[0]"),
        ({"max_tokens": 0}, 400, "invalid_value", "max_tokens"),
        ({"max_tokens": 101}, 400, "invalid_value", "max_tokens"),
        ({"temperature": 3}, 400, "invalid_value", "temperature"),
        ({"stop": ["a", "b", "c", "d", "e"]}, 400, "invalid_value", "stop"),
        ({"stop": ""}, 400, "invalid_value", "stop"),
        ({"n": 5}, 400, "unsupported_value", "n"),
        ({"top_logprobs": 2}, 400, "invalid_value", "top_logprobs"),
        ({"tools": [{"type": "function"}]}, 400, "unsupported_value", "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "no name"}}]}, 400, "invalid_value", "tools[0].function.name"),
        ({"tools": [F | {"type": "custom"}]}, 400, "unsupported_value", "tools[0].type"),
        ({"tools": [F] * 129}, 400, "invalid_value", "tools"),
        ({"tool_choice": "perhaps", "tools": [F]}, 400, "invalid_value", "tool_choice.type"),
        ({"tool_choice": {"type": "function", "function": "f"}, "tools": [F]}, 400, "invalid_value", "tool_choice.function"),
        ({"tool_choice": {"type": "function", "function": {"name": "g"}}, "tools": [F]}, 400, "invalid_value", "tool_choice"),
        ({"tool_choice": "required"}, 400, "invalid_value", "tool_choice"),
        ({"messages": [{"role": "tool", "content": "42"}]}, 400, "invalid_value", "messages[0]"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": CALLS}]}, 400, "invalid_value", "messages[0]"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "c"}]}]},
            400,
            "missing_required_parameter",
            "messages[0].tool_calls[0].function",
        ),
        ({"top_logprobs": 21, "logprobs": True}, 400, "invalid_value", "top_logprobs"),
        ({"logit_bias": {"1": 2}}, 400, "unsupported_parameter", "logit_bias"),
        ({"modalities": ["text", "audio"]}, 400, "unsupported_value", "modalities"),
        ({"response_format": {"type": "json_schema"}}, 400, "missing_required_parameter", "response_format.json_schema"),
        ({"chat_template_kwargs": {}}, 400, "unsupported_parameter", "chat_template_kwargs"),
        ({"grammar": "x"}, 400, "unsupported_parameter", "grammar"),
    ],
)
async def test_a_wrong_field_is_named(house: House, fields: dict[str, object], status: int, code: str, param: str) -> None:
    async with house.http() as http:
        response = await http.post("/v1/chat/completions", json=body(**fields))
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (status, code, param)
    assert not house.flow.turns


@pytest.mark.parametrize("content", [b"{", b"[" * 100_000, b'{"a": NaN}', b"\xff\xfe", b"", b"null", b'{"messages": "\\ud800"}'])
async def test_a_body_that_is_no_request_is_400_in_the_envelope(house: House, content: bytes) -> None:
    async with house.http() as http:
        response = await http.post("/v1/chat/completions", content=content[:19_000], headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


async def test_lone_surrogates_are_400(house: House) -> None:
    content = b'{"model":"headrace-direct","messages":[{"role":"user","content":"\\ud800"}]}'
    async with house.http() as http:
        response = await http.post("/v1/chat/completions", content=content, headers={"content-type": "application/json"})
    assert response.status_code == 400


@pytest.mark.parametrize("schema", [b'{"a":"\\ud800"}', b'{"a":' * 500 + b"1" + b"}" * 500])
async def test_a_schema_that_can_not_be_passed_on_never_breaks_us(house: House, schema: bytes) -> None:
    tool = b'{"type":"function","function":{"name":"f","parameters":%b}}' % schema
    content = b'{"model":"headrace","messages":[{"role":"user","content":"x"}],"tools":[%b]}' % tool
    async with house.http() as http:
        response = await http.post("/v1/chat/completions", content=content, headers={"content-type": "application/json"})
    assert response.status_code in (200, 400)


async def test_a_body_over_its_bound_is_413_with_or_without_its_length(house: House) -> None:
    async def endless() -> Any:
        for _ in range(30):
            yield b" " * 1000

    async with house.http() as http:
        declared = await http.post("/v1/chat/completions", content=b" " * 30_000)
        chunked = await http.post("/v1/chat/completions", content=endless(), headers={"content-type": "application/json"})
    for response in (declared, chunked):
        assert response.status_code == 413
        assert response.json()["error"]["code"] == "request_too_large"


async def test_an_unknown_path_or_method_is_a_404_that_says_so(house: House) -> None:
    async with house.http() as http:
        for response in (await http.post("/v1/audio/speech"), await http.delete("/v1/chat/completions")):
            assert response.status_code == 404
            assert response.json()["error"]["code"] == "unknown_url"


async def test_a_streamed_answer_has_the_golden_order(house: House) -> None:
    house.flow.pieces = list(CITED)
    chunks = [json.loads(data) for data in (await events(house, stream_options={"include_usage": True}))[:-1]]
    deltas = [chunk["choices"][0]["delta"] if chunk["choices"] else None for chunk in chunks]
    annotation = {"url": "https://rag.example/files/file_1", "title": "handbook.md", "start_index": 6, "end_index": 9}
    assert deltas[0] == {"role": "assistant", "content": "", "refusal": None}
    assert "".join(delta["content"] for delta in deltas[1:-3] if delta) == "Hello [1]"
    assert deltas[-3] == {"annotations": [{"type": "url_citation", "url_citation": annotation}]}
    assert deltas[-2:] == [{}, None]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 2) + ["stop"]
    assert chunks[-1]["usage"]["total_tokens"] == 12
    assert len({(chunk["id"], chunk["created"], chunk["model"], chunk["system_fingerprint"]) for chunk in chunks}) == 1


async def test_the_stream_ends_with_done_and_without_usage_unless_asked(house: House) -> None:
    data = await events(house)
    assert data[-1] == "[DONE]"
    assert all(json.loads(chunk)["usage"] is None for chunk in data[:-1])


async def test_the_clients_own_accumulator_takes_the_stream(house: House) -> None:
    house.flow.pieces = list(CITED)
    async with house.openai() as client, client.chat.completions.stream(model="headrace-direct", messages=QUESTION) as stream:
        final = await stream.get_final_completion()
    assert final.choices[0].message.content == "Hello [1]"


async def test_a_whole_answer_passes_strict_validation(house: House) -> None:
    house.flow.pieces = list(CITED)
    async with house.openai() as client:
        answer = await client.chat.completions.create(model="headrace-direct", messages=QUESTION)
    message = answer.choices[0].message
    assert message.content == "Hello [1]"
    assert message.annotations
    citation = message.annotations[0].url_citation
    assert message.content[citation.start_index : citation.end_index] == "[1]"
    assert answer.usage
    assert answer.usage.completion_tokens == 2


async def test_the_request_reaches_the_flow(house: House) -> None:
    async with house.openai() as client:
        await client.chat.completions.create(
            model="headrace",
            messages=[{"role": "developer", "content": "Be kind"}, {"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
            max_completion_tokens=7,
            stop="END",
            seed=3,
            user="ignored",
        )
    turn = house.flow.turns[0]
    assert [(message.role, message.content) for message in turn.messages] == [("system", "Be kind"), ("user", "Hi")]
    assert (turn.sampling.max_tokens, turn.sampling.stop, turn.sampling.seed) == (7, ("END",), 3)
    assert turn.principal.tenant == "ours"


async def test_an_error_before_the_first_byte_is_a_status(house: House) -> None:
    house.flow.pieces, house.flow.error = [], Overloaded("too much", retry_after_s=1.5)
    for stream in (True, False):
        async with house.http() as http:
            response = await http.post("/v1/chat/completions", json=body(stream=stream))
        assert response.status_code == 503
        assert response.headers["retry-after-ms"] == "1500"
        assert response.json()["error"]["code"] == "server_overloaded"


async def test_an_error_after_the_first_byte_is_an_event_the_client_raises(house: House) -> None:
    house.flow.pieces, house.flow.pause_s, house.flow.error = ["Hello"], 0.05, StreamInterrupted("it broke off")
    async with house.openai() as client:
        stream = await client.chat.completions.create(model="headrace-direct", messages=QUESTION, stream=True)
        with pytest.raises(openai.APIError, match="it broke off"):
            async for _ in stream:
                pass


async def test_framing_in_the_text_stays_text(house: House) -> None:
    nasty = "\n\ndata: [DONE]\n\nevent: x\r\n\r\n\u2028 \x00 😀"
    house.flow.pieces = [nasty]
    data = await events(house)
    assert data.count("[DONE]") == 1
    assert "".join(json.loads(chunk)["choices"][0]["delta"].get("content", "") for chunk in data[:-1]) == nasty


async def test_no_event_is_over_64_kib(house: House) -> None:
    house.flow.pieces = ["\x00" * 30_000]
    data = await events(house)
    assert max(map(len, data)) < 64 << 10
    assert sum(len(json.loads(chunk)["choices"][0]["delta"].get("content", "")) for chunk in data[:-1]) == 30_000


async def test_a_pause_is_filled_with_comments(house: House) -> None:
    house.flow.pieces, house.flow.pause_s = ["a", "b"], 0.7
    async with house.http() as http:
        response = await http.post("/v1/chat/completions", json=body(stream=True))
    assert ": keep-alive\n\n" in response.text


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_ends_the_flow(house: House, stream: bool) -> None:
    house.flow.pieces, house.flow.pause_s = ["word "] * 1000, 0.01

    async def leave() -> None:
        async with house.http() as http, http.stream("POST", "/v1/chat/completions", json=body(stream=stream)) as response:
            async for _ in response.aiter_bytes():
                return

    asking = asyncio.create_task(leave())
    await until(lambda: len(house.flow.turns), equals=1)
    await asyncio.sleep(0.05)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await until(lambda: house.flow.ended_early, equals=1)
    await until(lambda: len(house.context.outbox.writers), equals=0)


async def test_more_answers_than_the_bound_get_503(house: House) -> None:
    house.flow.pieces, house.flow.pause_s = ["word "] * 50, 0.02
    async with house.http() as http:
        responses = await asyncio.gather(*(http.post("/v1/chat/completions", json=body(stream=True)) for _ in range(5)))
    assert sorted(response.status_code for response in responses) == [200, 200, 200, 503, 503]


async def test_models_are_listed(house: House) -> None:
    async with house.openai() as client:
        assert [model.id async for model in client.models.list()] == ["headrace", "headrace-direct"]
        assert (await client.models.retrieve("headrace")).id == "headrace"
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("a/b")


async def test_embeddings_come_as_floats_and_as_base64(house: House) -> None:
    async with AsyncOpenAI(base_url=f"{house.url}/v1", api_key=house.key) as client:  # strict validation looks before it decodes base64
        one = await client.embeddings.create(model="headrace-embed", input="hello")
    async with house.openai() as client:
        two = await client.embeddings.create(model="headrace-embed", input=["hello", "you"], encoding_format="float")
        short = await client.embeddings.create(model="headrace-embed", input="hello", dimensions=8, encoding_format="float")
        with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length"):
            await client.embeddings.create(model="headrace-embed", input=[[1, 2]])
    assert one.data[0].embedding == pytest.approx(two.data[0].embedding)
    assert [item.index for item in two.data] == [0, 1]
    assert len(short.data[0].embedding) == 8
