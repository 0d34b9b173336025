"""The Responses API over HTTP, as OpenAI's own client and plain ones see it."""

import asyncio
import json
from typing import Any

import pytest
from openai import APIStatusError, BadRequestError, NotFoundError

from deployments.core.errors import Overloaded
from deployments.core.filters import Compare
from deployments.core.keys import Keys
from deployments.core.types import Citation, Search
from tests.fakes import SCOPES, until
from tests.house import House

CITED: list[str | Citation] = ["Hello [1]", Citation(6, 9, 1, "http://h/files/file-1#chunk=3", "handbook.md"), " and more."]
KEYS = {
    "id", "object", "created_at", "completed_at", "status", "error", "incomplete_details", "instructions", "previous_response_id",
    "conversation", "model", "output", "parallel_tool_calls", "tools", "tool_choice", "truncation", "text", "temperature", "top_p",
    "presence_penalty", "frequency_penalty", "top_logprobs", "max_output_tokens", "max_tool_calls", "reasoning", "store", "background",
    "service_tier", "metadata", "user", "safety_identifier", "prompt_cache_key", "usage",
}  # fmt: skip


async def events(house: House, path: str, after: int = -1) -> list[dict[str, Any]]:
    """The events of a stream that is read to its end."""
    async with house.http() as http, http.stream("GET", path) as response:
        assert response.status_code == 200, await response.aread()
        body = (await response.aread()).decode()
    return parsed(body)


def parsed(body: str) -> list[dict[str, Any]]:
    assert body.endswith("data: [DONE]\n\n")
    found: list[dict[str, Any]] = []
    for block in body.split("\n\n"):
        if block.startswith("event: "):
            name, data = block.split("\n")
            found.append(json.loads(data.removeprefix("data: ")))
            assert found[-1]["type"] == name.removeprefix("event: ")
    return found


async def test_a_response_comes_whole(house: House) -> None:
    house.flow.pieces = CITED
    response = await house.openai().responses.create(model="headrace-direct", input="Hi", metadata={"a": "b"})
    assert response.output_text == "Hello [1] and more."
    assert (response.status, response.metadata, response.usage and response.usage.total_tokens) == ("completed", {"a": "b"}, 12)
    message: Any = response.output[0]
    assert message.content[0].annotations[0].url == "http://h/files/file-1#chunk=3"
    assert response.completed_at


async def test_every_field_is_there(house: House) -> None:
    async with house.http() as http:
        body = (await http.post("/v1/responses", json={"model": "headrace", "input": "Hi"})).json()
    assert set(body) >= KEYS
    assert body["temperature"] == body["top_p"] == 1.0
    assert (body["tool_choice"], body["truncation"], body["tools"], body["service_tier"]) == ("auto", "disabled", [], "default")


async def test_the_clients_accumulator_runs_over_a_stream(house: House) -> None:
    house.flow.pieces = CITED
    async with house.openai().responses.stream(model="headrace", input="Hi") as stream:
        seen = [event async for event in stream]
        final = await stream.get_final_response()
    assert final.output_text == "Hello [1] and more."
    assert [event.type for event in seen][:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert seen[-1].type == "response.completed"


async def test_an_error_before_the_first_word_is_a_status_and_after_it_an_event(house: House) -> None:
    house.flow.pieces, house.flow.error = [], Overloaded("busy", retry_after_s=3)
    with pytest.raises(APIStatusError) as error:
        await house.openai().responses.create(model="headrace", input="Hi", stream=True)
    assert error.value.status_code == 503
    house.flow.pieces = ["so far"]
    stream = await house.openai().responses.create(model="headrace", input="Hi", stream=True)
    last = [event async for event in stream][-1]
    assert last.type == "response.failed"
    assert last.response.error
    assert last.response.error.code == "server_error"
    assert last.response.output_text == "so far"


async def test_a_stored_response_is_retrieved_listed_and_deleted(house: House) -> None:
    client = house.openai()
    made = await client.responses.create(model="headrace", input=[{"role": "user", "content": "one"}, {"role": "user", "content": "two"}])
    found = await client.responses.retrieve(made.id)
    assert found == made
    items = [item async for item in client.responses.input_items.list(made.id, limit=1, order="asc")]
    assert [item.content[0].text for item in items] == ["one", "two"]  # type: ignore[union-attr]
    await client.responses.delete(made.id)
    with pytest.raises(NotFoundError):
        await client.responses.retrieve(made.id)


async def test_what_is_not_stored_is_not_found(house: House) -> None:
    made = await house.openai().responses.create(model="headrace", input="Hi", store=False)
    with pytest.raises(NotFoundError):
        await house.openai().responses.retrieve(made.id)


async def test_a_response_goes_on_from_the_one_before(house: House) -> None:
    client = house.openai()
    first = await client.responses.create(model="headrace", input="one", instructions="Speak plainly")
    second = await client.responses.create(model="headrace", input="two", previous_response_id=first.id)
    await client.responses.create(model="headrace", input="three", previous_response_id=second.id, instructions="Be brief")
    said = [(message.role, message.content) for message in house.flow.turns[-1].messages]
    assert said == [
        ("system", "Be brief"),
        ("user", "one"),
        ("assistant", "Hello world."),
        ("user", "two"),
        ("assistant", "Hello world."),
        ("user", "three"),
    ]


async def test_an_item_reference_stands_for_the_item(house: House) -> None:
    client = house.openai()
    first = await client.responses.create(model="headrace", input="one")
    reference: Any = {"type": "item_reference", "id": first.output[0].id}
    await client.responses.create(model="headrace", input=[reference, {"role": "user", "content": "two"}])
    assert [message.content for message in house.flow.turns[-1].messages] == ["Hello world.", "two"]
    with pytest.raises(BadRequestError) as error:
        await client.responses.create(model="headrace", input=[{"type": "item_reference", "id": "msg_none"}])
    assert error.value.code == "item_not_found"


async def test_a_background_response_is_polled_until_it_is_done(house: House) -> None:
    house.flow.pieces, house.flow.held = ["one ", "two ", "three"], True
    client = house.openai()
    made = await client.responses.create(model="headrace", input="Hi", background=True)
    assert made.status == "queued"
    texts: list[str] = []
    while (found := await client.responses.retrieve(made.id)).status in ("queued", "in_progress"):
        texts.append(found.output_text)
        house.flow.held = "one " not in texts
        await asyncio.sleep(0.01)
    assert found.output_text == "one two three"
    assert texts == sorted(texts, key=len)
    assert "one " in texts
    assert await client.responses.retrieve(made.id) == found


async def test_several_watch_a_background_response_from_anywhere(house: House) -> None:
    house.flow.pieces, house.flow.pause_s = [f"w{n} " for n in range(30)], 0.01
    async with house.http() as http:
        body = {"model": "headrace", "input": "Hi", "background": True, "stream": True}
        async with http.stream("POST", "/v1/responses", json=body) as response:
            lines = response.aiter_lines()
            await anext(lines)
            name = json.loads((await anext(lines)).removeprefix("data: "))["response"]["id"]
        # the first connection is gone; the response is not
        path = f"/v1/responses/{name}?stream=true"
        watchers = await asyncio.gather(*(events(house, path) for _ in range(3)), events(house, f"{path}&starting_after=7"))
    whole = watchers[0]
    assert [event["sequence_number"] for event in whole] == list(range(len(whole)))
    assert [event["type"] for event in whole[:3]] == ["response.created", "response.queued", "response.in_progress"]
    assert whole[-1]["response"]["output"][0]["content"][0]["text"] == "".join(f"w{n} " for n in range(30))
    assert watchers[1] == watchers[2] == whole
    assert watchers[3] == whole[8:]
    assert await events(house, path) == whole
    assert house.flow.ended_early == 0


async def test_the_events_can_be_paged(house: House) -> None:
    house.flow.pieces, house.flow.pause_s = ["one ", "two ", "three"], 0.03
    made = await house.openai().responses.create(model="headrace", input="Hi", background=True)
    seen: list[dict[str, Any]] = []
    async with house.http() as http:
        more = True
        while more:
            after = seen[-1]["sequence_number"] if seen else -1
            page = await http.get(f"/v1/responses/{made.id}/events", params={"after": after, "limit": 2})
            seen, more = seen + page.json()["data"], page.json()["has_more"]
    assert seen == await events(house, f"/v1/responses/{made.id}?stream=true")


async def test_the_clients_helper_resumes_a_stream(house: House) -> None:
    house.flow.pieces, house.flow.pause_s = ["one ", "two ", "three"], 0.03
    client = house.openai()
    made = await client.responses.create(model="headrace", input="Hi", background=True)
    async with client.responses.stream(response_id=made.id, starting_after=3) as stream:
        seen = [event async for event in stream]
        final = await stream.get_final_response()
    assert seen[0].sequence_number == 4
    assert final.output_text == "one two three"


async def test_a_response_may_outlive_its_connection_by_a_header(house: House) -> None:
    house.flow.pieces, house.flow.pause_s = ["one ", "two ", "three"], 0.05
    async with house.http() as http:
        headers = {"x-headrace-on-disconnect": "continue"}
        body = {"model": "headrace", "input": "Hi", "stream": True}
        async with http.stream("POST", "/v1/responses", json=body, headers=headers) as response:
            lines = response.aiter_lines()
            await anext(lines)
            name = json.loads((await anext(lines)).removeprefix("data: "))["response"]["id"]
        seen = await events(house, f"/v1/responses/{name}?stream=true")
        assert [event["type"] for event in seen[:2]] == ["response.created", "response.in_progress"]
        assert seen[-1]["type"] == "response.completed"
        whole = await http.post("/v1/responses", json={"model": "headrace", "input": "Hi"}, headers=headers)
        assert whole.json()["status"] == "completed"
        bad = await http.post("/v1/responses", json=body, headers={"x-headrace-on-disconnect": "maybe"})
        assert bad.status_code == 400


async def test_a_foreground_response_ends_with_its_connection(house: House) -> None:
    house.flow.pieces, house.flow.pause_s = ["w "] * 500, 0.01
    async with house.http() as http:
        body = {"model": "headrace", "input": "Hi", "stream": True}
        async with http.stream("POST", "/v1/responses", json=body) as response:
            await anext(response.aiter_bytes())
    await until(lambda: house.flow.ended_early, equals=1)


async def test_a_background_response_is_cancelled_and_its_watchers_are_told(house: House) -> None:
    house.flow.pieces, house.flow.pause_s = ["w "] * 500, 0.01
    client = house.openai()
    made = await client.responses.create(model="headrace", input="Hi", background=True)
    watching = asyncio.create_task(events(house, f"/v1/responses/{made.id}?stream=true"))
    while not (await client.responses.retrieve(made.id)).output_text:
        await asyncio.sleep(0.01)
    cancelled = await client.responses.cancel(made.id)
    assert cancelled.status == "cancelled"
    assert cancelled.output_text.startswith("w ")
    seen = await watching
    assert (seen[-1]["type"], seen[-1]["response"]["status"]) == ("response.incomplete", "cancelled")
    assert seen[-1]["response"]["output"][0]["content"][0]["text"] == cancelled.output_text
    assert await client.responses.cancel(made.id) == cancelled == await client.responses.retrieve(made.id)
    await until(house.context.store.jobs.backlog, equals=0)


async def test_only_a_background_response_can_be_cancelled(house: House) -> None:
    made = await house.openai().responses.create(model="headrace", input="Hi")
    with pytest.raises(BadRequestError) as error:
        await house.openai().responses.cancel(made.id)
    assert error.value.code == "response_not_cancellable"


async def test_a_finished_background_response_is_not_changed_by_a_cancel(house: House) -> None:
    client = house.openai()
    made = await client.responses.create(model="headrace", input="Hi", background=True)
    await until(house.context.store.jobs.backlog, equals=0)
    assert (await client.responses.cancel(made.id)).status == "completed"


async def test_after_its_log_is_gone_a_response_is_still_retrieved_but_not_streamed(house: House) -> None:
    client = house.openai()
    made = await client.responses.create(model="headrace", input="Hi", background=True)
    await until(house.context.store.jobs.backlog, equals=0)
    await house.context.hub._valkey.flushall()
    assert (await client.responses.retrieve(made.id)).output_text == "Hello world."
    with pytest.raises(BadRequestError) as error:
        await client.responses.retrieve(made.id, stream=True)
    assert error.value.code == "log_expired"


async def test_starting_after_the_end_is_an_error(house: House) -> None:
    client = house.openai()
    made = await client.responses.create(model="headrace", input="Hi", background=True)
    await until(house.context.store.jobs.backlog, equals=0)
    whole = await events(house, f"/v1/responses/{made.id}?stream=true")
    with pytest.raises(BadRequestError) as error:
        await client.responses.retrieve(made.id, stream=True, starting_after=len(whole))
    assert error.value.param == "starting_after"
    async with house.http() as http:
        assert (await http.get(f"/v1/responses/{made.id}?starting_after=1")).status_code == 400
        assert (await http.get(f"/v1/responses/{made.id}?stream=true&starting_after=x")).status_code == 400


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/responses/{}"),
        ("GET", "/v1/responses/{}?stream=true"),
        ("GET", "/v1/responses/{}/events"),
        ("GET", "/v1/responses/{}/input_items"),
        ("POST", "/v1/responses/{}/cancel"),
        ("DELETE", "/v1/responses/{}"),
    ],
)
async def test_another_tenants_response_is_answered_like_one_that_never_was(house: House, method: str, path: str) -> None:
    made = await house.openai().responses.create(model="headrace", input="Hi", background=True)
    await until(house.context.store.jobs.backlog, equals=0)
    keys = Keys(house.context.store, b"pepper")
    await keys.add_tenant("theirs", "theirs")
    theirs = (await keys.mint("theirs", SCOPES)).secret
    async with house.http(theirs) as http:
        foreign = await http.request(method, path.format(made.id))
        unknown = await http.request(method, path.format("resp_unknown"))
    assert foreign.status_code == unknown.status_code == 404
    assert foreign.json() == json.loads(unknown.text.replace("resp_unknown", made.id))
    assert (await house.openai().responses.retrieve(made.id)).status == "completed"


async def test_another_tenants_response_can_not_be_gone_on_from(house: House) -> None:
    made = await house.openai().responses.create(model="headrace", input="Hi")
    keys = Keys(house.context.store, b"pepper")
    await keys.add_tenant("theirs", "theirs")
    theirs = house.openai((await keys.mint("theirs", SCOPES)).secret)
    with pytest.raises(BadRequestError) as error:
        await theirs.responses.create(model="headrace", input="Hi", previous_response_id=made.id)
    assert error.value.code == "previous_response_not_found"


async def test_input_tokens_are_counted(house: House) -> None:
    counted = await house.openai().responses.input_tokens.count(model="headrace", input="Hello there " * 10)
    assert 20 < counted.input_tokens < 60


async def test_any_store_of_ones_own_is_searched_with_filters(house: House) -> None:
    async with house.http() as http:
        first, second = [(await http.post("/v1/vector_stores", json={"name": name})).json()["id"] for name in ("first", "second")]
        tool = {"type": "file_search", "vector_store_ids": [second], "filters": {"type": "eq", "key": "year", "value": 1820}}
        answer = await http.post("/v1/responses", json={"model": "headrace", "input": "Hi", "tools": [tool]})
        await http.post("/v1/responses", json={"model": "headrace", "input": "Hi"})
    assert answer.json()["tools"][0]["filters"] == tool["filters"]
    assert [turn.store_id for turn in house.flow.turns] == [second, first]
    assert house.flow.turns[0].search == Search(filters=Compare("eq", "year", 1820))


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"input": None}, "input", "missing_required_parameter"),
    ({"model": "gpt-9"}, "model", "model_not_found"),
    ({"input": [{"type": "computer_call"}]}, "input[0].type", "unsupported_value"),
    ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].image_url", "missing_required_parameter"),
    ({"input": [{"role": "cook", "content": "x"}]}, "input[0].role", "invalid_value"),
    ({"input": [{"role": "user", "content": "x"}] * 6}, "input", "too_many_items"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type", "unsupported_value"),
    ({"tools": [{"type": "file_search", "vector_store_ids": ["vs_none"]}]}, "tools[0].vector_store_ids", "unsupported_parameter"),
    ({"tools": [{"type": "function"}]}, "tools[0].name", "missing_required_parameter"),
    ({"tool_choice": "sometimes"}, "tool_choice", "unsupported_value"),
    ({"tool_choice": {"type": "function", "name": "f"}}, "tool_choice", "unsupported_value"),
    ({"include": ["everything"]}, "include[0]", "unsupported_value"),
    ({"text": {"format": {"type": "json_schema", "name": "x", "strict": True, "schema": {}}}}, "text.format.schema", "invalid_json_schema"),
    ({"prompt": {"id": "p"}}, "prompt.id", "prompt_not_found"),
    ({"context_management": [{"type": "x"}]}, "context_management", "unsupported_parameter"),
    ({"background": True, "store": False}, "store", "invalid_value"),
    ({"background": True, "background_options": {"completion_window": "2h"}}, "background_options.completion_window", "unsupported_value"),
    ({"previous_response_id": "resp_1", "conversation": "conv_1"}, "conversation", "invalid_value"),
    ({"previous_response_id": "resp_1"}, "previous_response_id", "previous_response_not_found"),
    ({"max_output_tokens": 101}, "max_output_tokens", "invalid_value"),
    ({"metadata": {"k": "v" * 513}}, "metadata.k", "invalid_value"),
    ({"chat_template": "x"}, "chat_template", "unsupported_parameter"),
    ({"temperature": 3}, "temperature", "invalid_value"),
]


@pytest.mark.parametrize(("fields", "param", "code"), BAD)
async def test_bad_input_is_named(house: House, fields: dict[str, Any], param: str, code: str) -> None:
    async with house.http() as http:
        response = await http.post("/v1/responses", json={"model": "headrace", "input": "Hi"} | fields)
    assert response.status_code == (404 if code == "model_not_found" else 400)
    error = response.json()["error"]
    assert (error["param"], error["code"]) == (param, code), error
    assert house.flow.turns == []
