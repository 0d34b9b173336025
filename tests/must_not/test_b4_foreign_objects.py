"""B4: what another tenant owns is not there: every id that a request can name is answered as one that never was."""

import json
import random
import re
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from httpx2 import AsyncClient
from scipy.stats import mannwhitneyu
from websockets.asyncio.client import connect

from deployments.core.keys import Keys
from deployments.gateway.app import build_app
from tests.fakes import SCOPES, until
from tests.house import House

NEVER = {
    "conversation_id": "conv_0123456789ab0123456789abcdef01234567",
    "item_id": "msg_0123456789ab0123456789abcdef01234567",
    "response_id": "resp_0123456789ab0123456789abcdef01234567",
    "file_id": "file-0123456789ab0123456789abcdef01234567",
    "store_id": "vs_0123456789ab0123456789abcdef01234567",
    "batch_id": "vsfb_0123456789ab0123456789abcdef01234567",
    "upload_id": "upload_0123456789ab0123456789abcdef01234567",
}
BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("/v1/conversations/{conversation_id}", "post"): {"metadata": {"mine": "now"}},
    ("/v1/conversations/{conversation_id}/items", "post"): {"items": [{"role": "user", "content": "x"}]},
    ("/v1/vector_stores/{store_id}/files", "post"): {"file_id": "file-1"},
    ("/v1/vector_stores/{store_id}", "post"): {"name": "mine"},
    ("/v1/vector_stores/{store_id}/files/{file_id}", "post"): {"attributes": {"mine": True}},
    ("/v1/vector_stores/{store_id}/file_batches", "post"): {"file_ids": ["file-1"]},
    ("/v1/vector_stores/{store_id}/search", "post"): {"query": "secret"},
    ("/v1/uploads/{upload_id}/complete", "post"): {"part_ids": ["part_1"]},
}
ASK: dict[str, Any] = {"model": "headrace", "input": "Hi"}
CALLS = {"type": "function_call_output", "call_id": "c", "output": "x"}


async def belongings(http: AsyncClient) -> dict[str, str]:
    """One object of each kind, made by the caller."""

    async def post(path: str, **fields: Any) -> dict[str, Any]:
        response = await http.post(path, **fields)
        assert response.status_code == 200, response.text
        return response.json()

    file = (await post("/v1/files", files={"file": ("a.md", b"# Secret")}, data={"purpose": "assistants"}))["id"]
    store = (await post("/v1/vector_stores", json={"name": "docs", "file_ids": [file]}))["id"]
    item = {"role": "user", "content": "secret"}
    conversation = (await post("/v1/conversations", json={"items": [item], "metadata": {"a": "secret"}}))["id"]
    items = (await http.get(f"/v1/conversations/{conversation}/items")).json()
    response = (await post("/v1/responses", json=ASK | {"background": True}))["id"]

    async def status() -> str:
        return (await http.get(f"/v1/responses/{response}")).json()["status"]

    await until(status, equals="completed")
    upload = await post("/v1/uploads", json={"bytes": 1, "filename": "b.md", "mime_type": "text/markdown", "purpose": "assistants"})
    batch = (await post(f"/v1/vector_stores/{store}/file_batches", json={"file_ids": [file]}))["id"]
    kept = {"file_id": file, "store_id": store, "batch_id": batch, "upload_id": upload["id"]}
    return kept | {"conversation_id": conversation, "item_id": items["first_id"], "response_id": response}


@pytest.fixture
async def theirs(house: House) -> AsyncIterator[dict[str, str]]:
    """What the house's own tenant owns; callers are of another."""
    async with house.http() as http:
        made = await belongings(http)
        before = await shown(http, made)
        yield made
        assert await shown(http, made) == before


async def shown(http: AsyncClient, made: dict[str, str]) -> list[str]:
    """How an owner sees what it owns."""
    paths = ["/v1/conversations/{conversation_id}", "/v1/conversations/{conversation_id}/items", "/v1/files/{file_id}/content"]
    paths += ["/v1/responses/{response_id}", "/v1/vector_stores/{store_id}/files", "/v1/conversations/{conversation_id}/items/{item_id}"]
    paths += ["/v1/files", "/v1/vector_stores/{store_id}", "/v1/vector_stores/{store_id}/file_batches/{batch_id}/files"]
    return [(await http.get(path.format(**made))).text for path in paths]


@pytest.fixture
async def key(house: House) -> str:
    """The key of another tenant."""
    keys = Keys(house.context.store, b"pepper")
    await keys.add_tenant("other", "other")
    return (await keys.mint("other", SCOPES)).secret


def told(text: str, ids: dict[str, str]) -> str:
    """An answer without the ids that were asked for."""
    for name, one in ids.items():
        text = text.replace(one, name)
    return text


async def test_every_id_in_a_path_is_answered_as_one_that_never_was(
    house: House, theirs: dict[str, str], key: str, cases: Callable[[int], None]
) -> None:
    compared = 0
    async with house.http(key) as http:
        for path, methods in build_app(house.context).openapi()["paths"].items():
            names = [name for name in re.findall(r"{(\w+)}", path) if name in NEVER]
            assert names or "{" not in path or path == "/v1/models/{name}" or path.startswith("/admin/"), (
                f"{path} has an id that this test does not know"
            )
            for method in methods if names else ():
                answers = []
                for ids in (theirs, NEVER):
                    body = BODIES.get((path, method))
                    response = await http.request(method, path.format(**ids), json=body)
                    answers.append((response.status_code, told(response.text, ids), sorted(response.headers)))
                assert answers[0] == answers[1], (path, method)
                assert answers[0][0] in ((401, 403) if path.startswith("/files/") else (404,)), (path, method)
                compared += 1
    assert compared >= 29
    cases(compared)


async def test_every_id_in_a_body_is_answered_as_one_that_never_was(house: House, theirs: dict[str, str], key: str) -> None:
    async with house.http(key) as http:
        mine = await belongings(http)
        for ids in (theirs, NEVER):
            bodies: list[tuple[str, dict[str, Any]]] = [
                ("/v1/responses", ASK | {"previous_response_id": ids["response_id"]}),
                ("/v1/responses", ASK | {"conversation": ids["conversation_id"]}),
                ("/v1/responses", ASK | {"conversation": {"id": ids["conversation_id"]}}),
                ("/v1/responses", ASK | {"input": [{"type": "item_reference", "id": ids["item_id"]}]}),
                ("/v1/responses", ASK | {"tools": [{"type": "file_search", "vector_store_ids": [ids["store_id"]]}]}),
                ("/v1/responses/input_tokens", ASK | {"previous_response_id": ids["response_id"], "input": [CALLS]}),
                ("/v1/vector_stores", {"file_ids": [ids["file_id"]]}),
                (f"/v1/vector_stores/{mine['store_id']}/files", {"file_id": ids["file_id"]}),
                (f"/v1/vector_stores/{ids['store_id']}/file_batches", {"file_ids": [mine["file_id"]]}),
            ]
            answers = [await http.post(path, json=body) for path, body in bodies]
            assert all(answer.status_code in (400, 404) for answer in answers), [answer.text for answer in answers]
            if ids is theirs:
                first = [(answer.status_code, told(answer.text, ids)) for answer in answers]
            else:
                assert [(answer.status_code, told(answer.text, ids)) for answer in answers] == first


async def test_lists_and_cursors_show_nothing_of_anothers(house: House, theirs: dict[str, str], key: str) -> None:
    async with house.http(key) as http:
        assert (await http.get("/v1/vector_stores")).json()["data"] == (await http.get("/v1/files")).json()["data"] == []
        mine = await belongings(http)
        for path in ("/v1/files", "/v1/vector_stores", "/v1/vector_stores/{store_id}/files", "/v1/conversations/{conversation_id}/items"):
            for query in ("", "?after=" + theirs["store_id"], "?after=" + theirs["item_id"], "?after=" + theirs["file_id"]):
                text = (await http.get(path.format(**mine) + query)).text
                assert not [name for name, one in theirs.items() if one in text.replace(query[7:] or "-", "")], (path, query)


async def test_a_session_opens_no_page_of_anothers(house: House, theirs: dict[str, str], key: str) -> None:
    async with house.http(None) as http:
        own = {"sec-fetch-site": "same-origin"}
        opened = await http.post(f"/files/{theirs['file_id']}", data={"key": key}, headers=own)
        assert opened.status_code == 303
        pages = [await http.get(f"/files/{one}") for one in (theirs["file_id"], NEVER["file_id"])]
    assert [page.status_code for page in pages] == [404, 404]
    assert pages[0].text == pages[1].text


async def test_a_socket_follows_nothing_of_anothers(house: House, theirs: dict[str, str], key: str) -> None:
    url = house.url.replace("http", "ws") + "/v1/responses"
    async with connect(url, additional_headers={"authorization": f"Bearer {key}"}, proxy=None) as socket:
        told_of: list[str] = []
        for ids in (theirs, NEVER):
            await socket.send(json.dumps({"type": "headrace:response.attach", "response_id": ids["response_id"]}))
            told_of.append(told(str(await socket.recv()), ids))
            await socket.send(json.dumps({"type": "response.create"} | ASK | {"previous_response_id": ids["response_id"]}))
            told_of.append(told(str(await socket.recv()), ids))
    assert told_of[:2] == told_of[2:]
    assert all(json.loads(one)["type"] == "error" for one in told_of)


@pytest.mark.full
@pytest.mark.timeout(600)
async def test_the_time_an_answer_takes_does_not_tell_what_is_another_tenants(house: House, theirs: dict[str, str], key: str) -> None:
    paths = [path for path in build_app(house.context).openapi()["paths"] if re.search("{(?!name)", path) and "/admin/" not in path]
    chance, shares = random.Random(4), {}
    async with house.http(key) as http:
        for path in paths:
            took: dict[str, list[float]] = {"theirs": [], "never": []}
            for _ in range(400):
                for kind, ids in chance.sample([("theirs", theirs), ("never", NEVER)], 2):
                    started = time.perf_counter()
                    await http.get(path.format(**ids))
                    took[kind].append(time.perf_counter() - started)
            shares[path] = mannwhitneyu(took["theirs"], took["never"]).pvalue
    least = min(shares.values())
    print(f"{len(shares)} paths, 400 of each: least p {least:.4f} of {len(shares)}")  # noqa: T201
    assert least > 0.01 / len(shares), shares  # Bonferroni: one of so many is small by chance
