"""A6: a request can't choose a template, a grammar, a URL, a repository or a file."""

import itertools

import pytest

from tests.house import House

FIELDS = ("chat_template", "chat_template_kwargs", "trust_remote_code", "grammar", "chat_parser", "id_slot", "slot_save_path")
VALUES = ("x", {"a": 1}, True, ["x"], "{{ cycler.__init__.__globals__ }}", "/etc/passwd")
MODELS = (
    "../../x",
    "hf://org/model",
    "file:///etc/passwd",
    "http://127.0.0.1:1/v1",
    "headrace\x00",
    "HEADRACE",
    "",
    "headrace/../headrace",
    "é" * 256,
)
BODY = {"model": "headrace-direct", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.mark.parametrize(("name", "value"), list(itertools.product(FIELDS, VALUES)))
async def test_a_field_that_would_steer_the_backend_is_refused(house: House, name: str, value: object) -> None:
    async with house.http() as http:
        response = await http.post("/v1/chat/completions", json=BODY | {name: value})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == name
    assert not house.flow.turns


async def test_only_our_own_model_names_are_models(house: House) -> None:
    async with house.http() as http:
        for model in MODELS:
            response = await http.post("/v1/chat/completions", json=BODY | {"model": model})
            assert response.status_code in (400, 404), model
    assert not house.flow.turns
