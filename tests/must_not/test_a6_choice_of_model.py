"""A6: a request can't choose a template, a grammar, a URL, a repository or a file."""

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deployments.core.config import Settings
from tests.fakes import Desk, database
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


URLS = ("http://127.0.0.1:1/x", "file:///etc/passwd", "hf://org/model", "../../etc/passwd", "data:text/html,x", "gopher://127.0.0.1:1/")
WATCHED = {"open", "socket.connect", "socket.getaddrinfo", "socket.bind", "subprocess.Popen", "os.system", "import"}


def listen() -> list[list[str]]:
    """Install an audit hook, which can't be taken out again; what it notes goes to the last of the lists it returns."""
    notes: list[list[str]] = []

    def note(event: str, args: tuple[object, ...]) -> None:
        if notes and event in WATCHED:
            notes[-1].append(f"{event} {args[:2]}")

    sys.addaudithook(note)
    return notes


def bodies() -> Iterator[tuple[str, dict[str, Any]]]:
    """Requests that name what they may not choose, wherever a request can hold it."""
    for field, value in itertools.product(FIELDS, (*VALUES, *URLS)):
        yield "/v1/chat/completions", BODY | {field: value}
        yield "/v1/responses", {"model": "headrace-direct", "input": "Hi", field: value}
    for model in (*MODELS, *URLS):
        yield "/v1/chat/completions", BODY | {"model": model}
        yield "/v1/completions", {"model": model, "prompt": "Hi"}
        yield "/v1/embeddings", {"model": model, "input": "Hi"}
    for url in URLS:
        image = {"type": "image_url", "image_url": {"url": url}}
        yield "/v1/chat/completions", BODY | {"messages": [{"role": "user", "content": [image]}]}
        schema = {"type": "function", "function": {"name": "f", "parameters": {"$ref": url}}}
        yield "/v1/chat/completions", BODY | {"tools": [schema]}
        item = {"role": "user", "content": [{"type": "input_file", "file_url": url}]}
        yield "/v1/responses", {"model": "headrace-direct", "input": [item]}
        yield "/v1/responses", {"model": "headrace-direct", "input": "Hi", "prompt": {"id": url}}


async def test_nothing_is_opened_for_what_a_request_names(tmp_path: Path, cases: Callable[[int], None]) -> None:
    asked = list(bodies())
    assert len(asked) >= 200
    cases(len(asked))
    async with database(tmp_path) as store:
        desk = Desk(store, Settings(data_dir=tmp_path))
        async with desk.http(await desk.key("acme")) as http:
            for path, body in asked:  # once before, as Python opens files when it imports
                assert (await http.post(path, json=body)).status_code in (400, 404), body
            notes = listen()
            for path, body in asked:
                notes.append([])
                await http.post(path, json=body)
                assert notes.pop() == [], (path, body)
            notes.append([])
            (tmp_path / "noticed").write_text("")
            assert len(notes.pop()) == 1
