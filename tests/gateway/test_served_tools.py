"""Tools that headrace runs, over the API: asked for as OpenAI's `mcp` tool, shown as its items, approved by the next request."""

import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest
from openai import APIStatusError, AsyncOpenAI
from redis.asyncio import Redis

from deployments.core.fetch import Fetcher
from deployments.core.follow import Hub
from deployments.core.gate import Gate
from deployments.core.outbox import Outbox
from deployments.core.usage import Books
from deployments.generator.chain import Chain
from deployments.generator.relay import Relays
from pipeline.citations import Verbatim
from pipeline.flow import Flow
from pipeline.tools.loop import Loop
from tests.fakes import SCOPES, FakeEmbeds, FakeRetrieves, FakeRoutes, Obedient, database
from tests.house import House, serving
from tests.workshop import TOOLS, Recorder

OURS: dict[str, Any] = {"type": "mcp", "server_label": "headrace", "allowed_tools": ["look", "save"]}
THEIRS: dict[str, Any] = {"type": "function", "name": "theirs", "parameters": {"type": "object"}, "strict": False}


@dataclass
class Shop:
    """A gateway with tools and an obedient model behind it."""

    house: House
    key: str
    recorder: Recorder
    model: Obedient

    @property
    def openai(self) -> AsyncOpenAI:
        return self.house.openai(self.key)


@pytest.fixture
async def shop(house: House, valkey: Redis, tmp_path: Path) -> AsyncIterator[Shop]:
    settings = house.context.settings.model_copy(update={"tools": TOOLS})
    recorder, model = Recorder(), Obedient()
    generates = Relays(cast(Chain, model), Outbox(valkey, settings.log), lambda _: Verbatim())
    loop = Loop(TOOLS, Fetcher(transport=recorder))
    house.flow.answer = Flow(settings, FakeEmbeds(), FakeRetrieves(), FakeRoutes(), generates, loop=loop).answer  # type: ignore[method-assign]
    key = (await house.context.keys.mint("ours", [*SCOPES, "tools:use"])).secret
    hub = Hub(valkey, settings.log)
    async with database(tmp_path, time.time) as store:  # which its application closes
        gate = Gate(valkey, settings, house.context.keys.policy, Books(store))
        outbox = Outbox(valkey, settings.log, local=hub)
        context = replace(house.context, settings=settings, store=store, hub=hub, outbox=outbox, gate=gate)
        async with serving(context) as url:
            yield Shop(replace(house, url=url), key, recorder, model)


async def test_a_call_is_an_item_between_two_messages(shop: Shop) -> None:
    async with shop.openai.responses.stream(model="headrace-direct", input='CALL look {"n":1}', tools=[OURS]) as stream:  # type: ignore[list-item]
        events = [event async for event in stream]
        final = await stream.get_final_response()
    assert [item.type for item in final.output] == ["message", "mcp_call", "message"]
    call: Any = final.output[1]
    assert (call.server_label, call.name, call.arguments, call.output, call.status) == (
        "headrace", "look", '{"n":1}', "look did it", "completed",
    )  # fmt: skip
    assert final.output_text == "I obey.\n\nDone."
    assert len({item.id for item in final.output}) == 3
    assert [event.sequence_number for event in events] == list(range(len(events)))  # type: ignore[union-attr]
    assert [event.type for event in events if "mcp" in event.type] == [
        "response.mcp_call.in_progress",
        "response.mcp_call_arguments.delta",
        "response.mcp_call_arguments.done",
        "response.mcp_call.completed",
    ]
    assert final.usage
    assert final.usage.total_tokens == 20


async def test_a_write_is_asked_about_and_made_by_the_next_request(shop: Shop) -> None:
    first = await shop.openai.responses.create(model="headrace-direct", input='CALL save {"to":"a"}', tools=[OURS])  # type: ignore[list-item]
    asked: Any = first.output[-1]
    assert (asked.type, asked.name, asked.arguments) == ("mcp_approval_request", "save", '{"to":"a"}')
    assert first.status == "completed"
    assert shop.recorder.calls == []
    answer: Any = [{"type": "mcp_approval_response", "approval_request_id": asked.id, "approve": True}]
    second = await shop.openai.responses.create(
        model="headrace-direct",
        input=answer,
        previous_response_id=first.id,
        tools=[OURS],  # type: ignore[list-item]
    )
    assert shop.recorder.calls == [("save", {"to": "a"})]
    call: Any = second.output[0]
    assert (call.type, call.output, call.approval_request_id) == ("mcp_call", "save did it", asked.id)
    third = await shop.openai.responses.create(
        model="headrace-direct",
        input="And?",
        previous_response_id=second.id,
        tools=[OURS],  # type: ignore[list-item]
    )
    assert third.status == "completed"
    told = shop.model.asked[-1].messages
    assert [message.role for message in told] == ["user", "assistant", "tool", "assistant", "user"]


@pytest.mark.parametrize("where", ["alone", "elsewhere", "unknown"])
async def test_an_approval_out_of_place_is_refused(shop: Shop, where: str) -> None:
    client = shop.openai
    first = await client.responses.create(model="headrace-direct", input='CALL save {"to":"a"}', tools=[OURS])  # type: ignore[list-item]
    other = await client.responses.create(model="headrace-direct", input="Hi")
    name = first.output[-1].id if where != "unknown" else other.output[-1].id
    answer: Any = [{"type": "mcp_approval_response", "approval_request_id": name, "approve": True}]
    place = {"alone": {}, "elsewhere": {"previous_response_id": other.id}, "unknown": {"previous_response_id": other.id}}[where]
    with pytest.raises(APIStatusError) as refused:
        await client.responses.create(model="headrace-direct", input=answer, tools=[OURS], **place)  # type: ignore[arg-type, call-overload]
    assert (refused.value.status_code, refused.value.code) == (400, "invalid_approval")
    assert shop.recorder.calls == []


async def test_a_background_response_runs_tools_too(shop: Shop) -> None:
    begun = await shop.openai.responses.create(model="headrace-direct", input='CALL look {"n":1}', tools=[OURS], background=True)  # type: ignore[list-item]
    async with shop.house.http(shop.key) as http:
        for _ in range(200):
            body = (await http.get(f"/v1/responses/{begun.id}")).json()
            if body["status"] not in ("queued", "in_progress"):
                break
        streamed = (await http.get(f"/v1/responses/{begun.id}?stream=true&starting_after=3")).text
    assert [item["type"] for item in body["output"]] == ["message", "mcp_call", "message"]
    first = json.loads(streamed.split("data: ")[1].split("\n")[0])
    assert first["sequence_number"] == 4


async def test_ours_are_run_and_theirs_are_handed_over(shop: Shop) -> None:
    answer = await shop.openai.responses.create(
        model="headrace-direct",
        input='CALL look {"n":1} CALL theirs {"a":2}',
        tools=[OURS, THEIRS],  # type: ignore[list-item]
    )
    kinds = [item.type for item in answer.output]
    assert sorted(kinds) == ["function_call", "mcp_call", "message"]
    assert [name for name, _ in shop.recorder.calls] == ["look"]


async def test_chat_runs_tools_and_streams_only_words(shop: Shop) -> None:
    messages: Any = [{"role": "user", "content": 'CALL look {"n":1} CALL save {"n":2}'}]
    answer = await shop.openai.chat.completions.create(model="headrace-direct", messages=messages, tools=[OURS])  # type: ignore[list-item]
    assert [name for name, _ in shop.recorder.calls] == ["look"]
    assert answer.choices[0].message.tool_calls is None
    assert answer.choices[0].message.content == "I obey.\n\nDone."
    assert "needs an approval" in shop.model.asked[-1].messages[-1].content


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"server_label": "wiki"}, "tools[0].server_label", "invalid_value"),
    ({"server_url": "http://127.0.0.1/mcp"}, "tools[0].server_url", "unsupported_parameter"),
    ({"connector_id": "connector_gmail"}, "tools[0].connector_id", "unsupported_parameter"),
    ({"authorization": "x"}, "tools[0].authorization", "unsupported_parameter"),
    ({"headers": {"a": "b"}}, "tools[0].headers", "unsupported_parameter"),
    ({"allowed_tools": ["nothing"]}, "tools[0].allowed_tools", "invalid_value"),
    ({"require_approval": "never"}, "tools[0].require_approval", "unsupported_value"),
]


@pytest.mark.parametrize(("fields", "param", "code"), REFUSED)
async def test_what_a_request_may_not_say_of_a_tool_is_named(shop: Shop, fields: dict[str, Any], param: str, code: str) -> None:
    async with shop.house.http(shop.key) as http:
        body = {"model": "headrace-direct", "input": "Hi", "tools": [OURS | fields]}
        answer = await http.post("/v1/responses", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, param, code)


async def test_a_caller_without_the_scope_is_offered_nothing(shop: Shop) -> None:
    client = shop.house.openai((await shop.house.context.keys.mint("ours", SCOPES)).secret)
    answer = await client.responses.create(model="headrace-direct", input='CALL look {"n":1}', tools=[OURS])  # type: ignore[list-item]
    assert shop.recorder.calls == []
    assert shop.model.asked[0].toolbox.tools == ()
    call: Any = answer.output[1]
    assert (call.type, call.status) == ("mcp_call", "failed")
