"""The Conversations API, as OpenAI's own client sees it, and responses that belong to a conversation."""

import json
from typing import Any

import pytest
from openai import BadRequestError, NotFoundError

from deployments.core.keys import Keys
from tests.fakes import SCOPES, until
from tests.house import House

TWO: Any = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]


async def test_a_conversation_lives_from_create_to_delete(house: House) -> None:
    client = house.openai()
    made = await client.conversations.create(metadata={"topic": "mills"}, items=TWO)
    assert await client.conversations.retrieve(made.id) == made
    assert (await client.conversations.update(made.id, metadata={"topic": "wheels"})).metadata == {"topic": "wheels"}
    texts = [item.content[0].text async for item in client.conversations.items.list(made.id, limit=1, order="asc")]  # type: ignore[union-attr]
    assert texts == ["one", "two"]
    deleted = await client.conversations.delete(made.id)
    assert (deleted.object, deleted.deleted) == ("conversation.deleted", True)
    with pytest.raises(NotFoundError):
        await client.conversations.retrieve(made.id)


async def test_items_are_added_found_and_taken_out(house: House) -> None:
    client = house.openai()
    made = await client.conversations.create()
    added = await client.conversations.items.create(made.id, items=TWO)
    first, second = added.data
    assert (added.first_id, added.last_id, added.has_more) == (first.id, second.id, False)
    assert await client.conversations.items.retrieve(first.id or "", conversation_id=made.id) == first
    assert (await client.conversations.items.delete(first.id or "", conversation_id=made.id)).id == made.id
    left = await client.conversations.items.list(made.id)
    assert left.data == [second]


async def test_a_response_joins_its_conversation_once_it_is_complete(house: House) -> None:
    client = house.openai()
    made = await client.conversations.create(items=TWO)
    response = await client.responses.create(model="headrace", input="three", conversation=made.id)
    assert response.conversation
    assert response.conversation.id == made.id
    items = await client.conversations.items.list(made.id, order="asc")
    assert [item.content[0].text for item in items.data] == ["one", "two", "three", "Hello world."]  # type: ignore[union-attr]
    assert items.data[-1].id == response.output[0].id
    assert house.flow.turns[-1].conversation_id == made.id
    await client.responses.delete(response.id)
    assert len((await client.conversations.items.list(made.id)).data) == 4


async def test_a_background_response_joins_its_conversation_too(house: House) -> None:
    client = house.openai()
    made = await client.conversations.create()
    await client.responses.create(model="headrace", input="one", conversation={"id": made.id}, background=True)
    await until(lambda: house.context.store.jobs.backlog("respond"), equals=0)
    assert len((await client.conversations.items.list(made.id)).data) == 2


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/conversations/{}", None),
        ("POST", "/v1/conversations/{}", {"metadata": {}}),
        ("DELETE", "/v1/conversations/{}", None),
        ("GET", "/v1/conversations/{}/items", None),
        ("POST", "/v1/conversations/{}/items", {"items": TWO}),
        ("GET", "/v1/conversations/{}/items/msg_1", None),
        ("DELETE", "/v1/conversations/{}/items/msg_1", None),
        ("POST", "/v1/responses", {"model": "headrace", "input": "x", "conversation": "NAME"}),
    ],
)
async def test_another_tenants_conversation_is_answered_like_one_that_never_was(house: House, method: str, path: str, body: Any) -> None:
    made = await house.openai().conversations.create(items=TWO)
    keys = Keys(house.context.store, b"pepper")
    await keys.add_tenant("theirs", "theirs")
    async with house.http((await keys.mint("theirs", SCOPES)).secret) as http:
        foreign, unknown = [
            await http.request(method, path.format(name), json=json.loads(json.dumps(body).replace("NAME", name)) if body else None)
            for name in (made.id, "conv_unknown")
        ]
    assert foreign.status_code == unknown.status_code == 404, foreign.text
    assert foreign.text.replace(made.id, "?") == unknown.text.replace("conv_unknown", "?")
    assert len((await house.openai().conversations.items.list(made.id)).data) == 2


async def test_bounds_of_a_conversation_are_named(house: House) -> None:
    client = house.openai()
    made = await client.conversations.create()
    with pytest.raises(BadRequestError) as error:
        await client.conversations.items.create(made.id, items=TWO * 11)
    assert error.value.param == "items"
    with pytest.raises(BadRequestError) as error:
        await client.conversations.create(metadata={str(n): "x" for n in range(17)})
    assert error.value.param == "metadata"
