"""Images in requests: who may send them to which model, and how large they may be."""

import base64
from typing import Any

import pytest

from deployments.core.catalogue import Models
from deployments.core.images import Image
from deployments.core.models import Model
from tests.house import House

PNG = b"\x89PNG\r\n\x1a\n"
BACKEND = {"name": "seeing", "base_url": "http://seeing/v1", "model": "m", "abilities": ["vision"]}


def url(size: int = 16) -> str:
    return f"data:image/png;base64,{base64.b64encode(PNG.ljust(size, b'x')).decode()}"


def chat(*urls: str, role: str = "user") -> dict[str, Any]:
    seen = [{"type": "image_url", "image_url": {"url": one, "detail": "low"}} for one in urls]
    return {"messages": [{"role": role, "content": [{"type": "text", "text": "What is this?"}, *seen]}]}


def response(*urls: str, role: str = "user") -> dict[str, Any]:
    seen = [{"type": "input_image", "image_url": one, "detail": "low"} for one in urls]
    return {"input": [{"role": role, "content": [{"type": "input_text", "text": "What is this?"}, *seen]}]}


ASK: dict[str, Any] = {"/v1/chat/completions": chat, "/v1/responses": response}
PLACES = {"/v1/chat/completions": "messages[0].content[1]", "/v1/responses": "input[0].content[1]"}


@pytest.fixture
async def seeing(house: House) -> House:
    """A house with a model that sees."""
    await Models(house.context.store, house.context.settings, "test").put(Model(name="seeing", backends=(BACKEND,)))  # pyright: ignore[reportArgumentType]
    return house


@pytest.mark.parametrize("path", ASK)
async def test_a_model_that_sees_is_given_text_and_images_apart(seeing: House, path: str) -> None:
    async with seeing.http() as http:
        answer = await http.post(path, json={"model": "seeing"} | ASK[path](url(16), url(20)))
    assert answer.status_code == 200, answer.text
    (turn,) = seeing.flow.turns
    assert turn.question == "What is this?"
    assert turn.messages[-1].images == tuple(Image("png", PNG.ljust(size, b"x"), "low") for size in (16, 20))


@pytest.mark.parametrize("path", ASK)
async def test_a_model_that_takes_text_only_refuses_the_first_image_by_name(seeing: House, path: str) -> None:
    async with seeing.http() as http:
        answer = await http.post(path, json={"model": "headrace"} | ASK[path](url()))
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "unsupported_value", PLACES[path])


@pytest.mark.parametrize("path", ASK)
@pytest.mark.parametrize(
    ("urls", "code"),
    [
        (["https://images.example/cat.png"], "invalid_image"),
        (["data:image/png;base64,AAAA"], "invalid_image"),
        ([url(2000)], "image_too_large"),
        ([url()] * 3, "too_many_images"),
    ],
)
async def test_what_is_out_of_bounds_is_refused(seeing: House, path: str, urls: list[str], code: str) -> None:
    async with seeing.http() as http:
        answer = await http.post(path, json={"model": "seeing"} | ASK[path](*urls))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)
    assert answer.json()["error"]["param"].startswith(PLACES[path])
    assert not seeing.flow.turns


@pytest.mark.parametrize("path", ASK)
@pytest.mark.parametrize("role", ["assistant", "system", "developer"])
async def test_only_the_user_sends_images(seeing: House, path: str, role: str) -> None:
    async with seeing.http() as http:
        answer = await http.post(path, json={"model": "seeing"} | ASK[path](url(), role=role))
    assert answer.status_code == 400
    assert not seeing.flow.turns


async def test_an_image_of_an_earlier_response_is_seen_again_and_refused_by_a_blind_model(seeing: House) -> None:
    async with seeing.http() as http:
        first = (await http.post("/v1/responses", json={"model": "seeing"} | response(url()))).json()
        again = {"previous_response_id": first["id"], "input": "And its colour?"}
        assert (await http.post("/v1/responses", json={"model": "seeing"} | again)).status_code == 200
        refused = await http.post("/v1/responses", json={"model": "headrace"} | again)
        items = (await http.get(f"/v1/responses/{first['id']}/input_items")).json()["data"]
    assert [len(message.images) for message in seeing.flow.turns[1].messages] == [1, 0, 0]
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "input")
    assert items[0]["content"][1] == {"type": "input_image", "image_url": url(), "detail": "low"}


async def test_a_file_in_place_of_an_image_is_refused_by_name(seeing: House) -> None:
    part = {"type": "input_image", "file_id": "file-1"}
    async with seeing.http() as http:
        answer = await http.post("/v1/responses", json={"model": "seeing", "input": [{"role": "user", "content": [part]}]})
    assert answer.json()["error"]["param"] == "input[0].content[0].file_id"
