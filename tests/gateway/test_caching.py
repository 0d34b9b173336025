"""The completion cache as clients see it: they ask for it by a header, and read the same answer again."""

import json
from dataclasses import replace
from typing import Any

import pytest

from deployments.core.keys import Keys
from deployments.core.limits import Policy
from deployments.core.types import Citation, Principal, Reuse
from deployments.gateway.caching import reusing
from tests.house import House

CITED: list[str | Citation] = ["Hello ", "[1]", Citation(6, 9, 1, "https://rag.example/files/file_1", "handbook.md"), " and more."]
QUESTION: list[Any] = [{"role": "user", "content": "what brings water to the wheel"}]
EXACT = {"x-headrace-cache": "exact"}


async def chunks(house: House, headers: dict[str, str]) -> tuple[str, list[Any], str, Any]:
    """Text, citations, id and usage of a streamed chat completion."""
    stream = await house.openai().chat.completions.create(
        model="headrace-direct", messages=QUESTION, stream=True, stream_options={"include_usage": True}, extra_headers=headers
    )
    got = [chunk async for chunk in stream]
    deltas = [chunk.choices[0].delta for chunk in got if chunk.choices]
    annotations = [one for delta in deltas for one in (delta.model_extra or {}).get("annotations", [])]
    return "".join(delta.content or "" for delta in deltas), annotations, got[0].id, got[-1].usage


async def test_a_streamed_chat_is_replayed_with_its_text_and_citations(house: House) -> None:
    house.flow.pieces = CITED
    first, second = await chunks(house, EXACT), await chunks(house, EXACT)
    assert second[:2] == first[:2]
    assert first[0] == "Hello [1] and more."
    assert len(first[1]) == 1
    assert first[2] != second[2]
    assert [one[3].prompt_tokens_details.cached_tokens for one in (first, second)] == [0, 10]
    assert len(house.flow.turns) == 1


async def test_a_whole_chat_and_a_completion_are_replayed(house: House) -> None:
    house.flow.pieces = CITED
    client = house.openai()
    chats = [await client.chat.completions.create(model="headrace-direct", messages=QUESTION, extra_headers=EXACT) for _ in range(2)]
    assert chats[0].choices == chats[1].choices
    assert [chat.usage and chat.usage.prompt_tokens_details and chat.usage.prompt_tokens_details.cached_tokens for chat in chats] == [0, 10]
    house.flow.turns.clear()
    texts = [await client.completions.create(model="headrace-direct", prompt="other", extra_headers=EXACT) for _ in range(2)]
    assert texts[0].choices == texts[1].choices
    assert len(house.flow.turns) == 1


def comparable(event: dict[str, Any], response_id: str) -> dict[str, Any]:
    """An event without what is each response's own."""
    text = json.dumps({name: value for name, value in event.items() if name not in ("sequence_number", "response")})
    return json.loads(text.replace(response_id.removeprefix("resp_"), "ID"))


async def responded(house: House, headers: dict[str, str]) -> list[dict[str, Any]]:
    body = {"model": "headrace-direct", "input": QUESTION[0]["content"], "stream": True}
    async with house.http() as http:
        text = (await http.post("/v1/responses", json=body, headers=headers)).text
    return [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: {")]


@pytest.mark.parametrize("goes_on", [{}, {"x-headrace-on-disconnect": "continue"}])
async def test_a_streamed_response_is_replayed_with_its_text_and_citations(house: House, goes_on: dict[str, str]) -> None:
    house.flow.pieces = CITED
    first, second = await responded(house, EXACT | goes_on), await responded(house, EXACT | goes_on)
    ids = [events[0]["response"]["id"] for events in (first, second)]
    assert ids[0] != ids[1]
    shown = [
        [comparable(event, name) for event in events if not event["type"].endswith("text.delta")]
        for events, name in zip((first, second), ids, strict=True)
    ]
    assert shown[0] == shown[1]
    for events in (first, second):
        assert "".join(event["delta"] for event in events if event["type"].endswith("text.delta")) == "Hello [1] and more."
        assert events[-1]["type"] == "response.completed"
    assert second[-1]["response"]["usage"]["input_tokens_details"]["cached_tokens"] == 10
    assert len(house.flow.turns) == 1
    stored = await house.openai().responses.retrieve(ids[1])  # a response of its own, stored like any other
    assert stored.output_text == "Hello [1] and more."


async def test_a_close_question_is_answered_alike_where_that_was_asked_for(house: House) -> None:
    client, close = house.openai(), {"x-headrace-cache": "semantic"}
    for content in ("what brings water to the wheel", "What brings WATER to the wheel?"):
        await client.chat.completions.create(model="headrace-direct", messages=[{"role": "user", "content": content}], extra_headers=close)
    assert len(house.flow.turns) == 1


@pytest.mark.parametrize("headers", [{}, {"x-headrace-cache": "off"}])
async def test_who_does_not_ask_for_it_gets_a_new_answer(house: House, headers: dict[str, str]) -> None:
    for given in (EXACT, headers, headers):
        await chunks(house, given)
    assert len(house.flow.turns) == 3


async def test_several_answers_to_one_question_are_all_new(house: House) -> None:
    client = house.openai()
    for _ in range(2):
        await client.chat.completions.create(model="headrace-direct", messages=QUESTION, n=2, extra_headers=EXACT)
    assert len(house.flow.turns) == 4


@pytest.mark.parametrize(
    ("headers", "param"),
    [
        ({"x-headrace-cache": "always"}, "x-headrace-cache"),
        ({"x-headrace-cache": "exact", "x-headrace-cache-threshold": "0.99"}, "x-headrace-cache-threshold"),
        ({"x-headrace-cache-threshold": "0.99"}, "x-headrace-cache-threshold"),
    ],
)
async def test_a_wish_that_makes_no_sense_is_400(house: House, headers: dict[str, str], param: str) -> None:
    async with house.http() as http:
        body = {"model": "headrace-direct", "messages": QUESTION}
        reply = await http.post("/v1/chat/completions", json=body, headers=headers)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


class Chosen(Keys):
    """Keys of tenants that have chosen the exact cache."""

    async def policy(self, principal: Principal) -> Policy:
        return Policy(cache="exact")


async def test_what_the_tenant_has_chosen_holds_for_requests_that_say_nothing(house: House) -> None:
    await chunks(house, {})
    parts = replace(house.context, keys=Chosen(house.context.store, b"pepper"))
    for headers, reuse in (({}, Reuse()), ({"x-headrace-cache": "off"}, None), ({"x-headrace-cache": "semantic"}, Reuse(0.97))):
        (turn,) = await reusing(parts, [house.flow.turns[0]], headers)
        assert turn.reuse == reuse


async def test_a_file_that_leaves_the_index_makes_what_was_read_from_it_old(house: House) -> None:
    async with house.http() as http:
        store_id = (await http.post("/v1/vector_stores", json={"name": "docs"})).json()["id"]
        sent = await http.post("/v1/files", data={"purpose": "assistants"}, files={"file": ("a.md", b"# Title")})
        file_id = sent.json()["id"]
        await http.post(f"/v1/vector_stores/{store_id}/files", json={"file_id": file_id})
        assert (await http.delete(f"/v1/files/{file_id}")).status_code == 200
    mine = house.context.store.of(await house.context.keys.verify(house.key))
    assert await mine.corpus.version(store_id) == 3  # out of the index, out of SQL, out of the index for what a worker put there
