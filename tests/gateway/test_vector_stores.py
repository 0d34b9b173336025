"""/v1/vector_stores over HTTP."""

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from openai import AsyncOpenAI, NotFoundError

from deployments.core.config import Settings
from deployments.core.types import Chunk, Source
from tests.fakes import Desk, FakeEmbeds, database

CHUNK = Chunk(0, "a", (), 0, 1, 1)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with database(tmp_path) as store:
        yield Desk(store, Settings(data_dir=tmp_path))


@pytest.fixture
async def acme(desk: Desk) -> AsyncOpenAI:
    return desk.openai(await desk.key("acme"))


async def upload(client: AsyncOpenAI, name: str = "a.md") -> str:
    return (await client.files.create(file=(name, b"# A"), purpose="assistants")).id


CALLS = [
    ("POST", "/v1/vector_stores"),
    ("GET", "/v1/vector_stores"),
    ("GET", "/v1/vector_stores/vs_1"),
    ("POST", "/v1/vector_stores/vs_1/files"),
    ("GET", "/v1/vector_stores/vs_1/files"),
    ("GET", "/v1/vector_stores/vs_1/files/file-1"),
    ("DELETE", "/v1/vector_stores/vs_1/files/file-1"),
]


@pytest.mark.parametrize(("method", "path"), CALLS)
async def test_without_a_key_nothing_is_done(desk: Desk, method: str, path: str) -> None:
    response = await desk.http().request(method, path, json={"file_id": "file-1"} if method == "POST" else None)
    assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize(("method", "path"), CALLS)
async def test_a_key_without_the_scope_is_refused(desk: Desk, method: str, path: str) -> None:
    key = await desk.key("acme", "chat", "files:write" if method == "GET" else "files:read")
    response = await desk.http(key).request(method, path, json={"file_id": "file-1"} if method == "POST" else None)
    assert (response.status_code, response.json()["error"]["code"]) == (403, "insufficient_scope")


@pytest.mark.parametrize(("method", "path"), CALLS[2:])
async def test_another_tenants_ids_are_answered_like_ids_that_never_were(desk: Desk, acme: AsyncOpenAI, method: str, path: str) -> None:
    file_id = await upload(acme)
    store = await acme.vector_stores.create(name="docs", file_ids=[file_id])
    other = desk.http(await desk.key("other"))

    async def ask(store_id: str, file: str) -> tuple[int, str]:
        url = path.replace("vs_1", store_id).replace("file-1", file)
        response = await other.request(method, url, json={"file_id": file} if method == "POST" else None)
        return response.status_code, response.text.replace(store_id, "vs_1").replace(file, "file-1")

    assert (await ask(store.id, file_id))[0] == 404
    assert await ask(store.id, file_id) == await ask("vs_1", "file-1")
    assert (await acme.vector_stores.files.retrieve(file_id, vector_store_id=store.id)).status == "in_progress"


async def test_a_tenants_lists_do_not_show_anothers(desk: Desk, acme: AsyncOpenAI) -> None:
    await acme.vector_stores.create(name="docs")
    assert (await desk.openai(await desk.key("other")).vector_stores.list()).data == []


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ('{"file_id": 1}', "file_id"),
        ("{}", "file_id"),
        ("[]", None),
        ('{"file_id"', None),
        ('{"file_id": "file-1", "chunking_strategy": {"type": "static", "static": {}}}', "chunking_strategy.static"),
        ('{"file_id": "file-1", "attributes": {"a": null}}', "attributes.a"),
        ('{"file_id": "file-1", "attributes": {"a": NaN}}', None),
        ('{"file_id": "file-1", "attributes": {"a": 1e999}}', "attributes.a"),
        ('{"file_id": "file-1", "attributes": {"a": ' + "9" * 400 + "}}", "attributes.a"),
        ('{"file_id": "file-1", "attributes": {"a": ' + "9" * 10_000 + "}}", None),
        ('{"file_id": "file-1", "attributes": {"a": "' + "x" * 513 + '"}}', "attributes.a"),
        ('{"file_id": "file-1", "attributes": {"' + "k" * 65 + '": 1}}', None),
        ('{"file_id": "file-1", "attributes": {' + ",".join(f'"k{n}": 1' for n in range(17)) + "}}", "attributes"),
        ('{"file_id": "file-1", "attributes": {"a": "\\ud800"}}', "attributes.a"),
    ],
)
async def test_a_body_that_is_wrong_is_refused_and_named(desk: Desk, body: str, param: str | None) -> None:
    key = await desk.key("acme")
    store = await desk.openai(key).vector_stores.create(name="docs")
    headers = {"content-type": "application/json"}
    response = await desk.http(key).post(f"/v1/vector_stores/{store.id}/files", content=body, headers=headers)
    assert response.status_code == 400
    if param:
        assert response.json()["error"]["param"].startswith(param)


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "order=up", "filter=odd", "before=file-1"])
async def test_a_query_that_is_wrong_is_refused(desk: Desk, query: str) -> None:
    key = await desk.key("acme")
    store = await desk.openai(key).vector_stores.create(name="docs")
    assert (await desk.http(key).get(f"/v1/vector_stores/{store.id}/files?{query}")).status_code == 400


@pytest.mark.parametrize(
    "body", [{"expires_after": {"anchor": "last_active_at", "days": 1}}, {"file_ids": ["x"] * 501}, {"name": "x" * 257}]
)
async def test_a_store_that_can_not_be_as_asked_is_not_made(desk: Desk, body: dict[str, object]) -> None:
    client = desk.http(await desk.key("acme"))
    assert (await client.post("/v1/vector_stores", json=body)).status_code == 400
    assert (await client.get("/v1/vector_stores")).json()["data"] == []


async def test_a_store_with_a_file_that_is_not_there_is_not_made(acme: AsyncOpenAI) -> None:
    with pytest.raises(NotFoundError):
        await acme.vector_stores.create(name="docs", file_ids=[await upload(acme), "file-1"])
    assert (await acme.vector_stores.list()).data == []


async def test_a_store_is_made_counted_and_listed(acme: AsyncOpenAI) -> None:
    file_id = await upload(acme)
    store = await acme.vector_stores.create(
        name="docs", file_ids=[file_id, file_id], metadata={"team": "a"}, chunking_strategy={"type": "auto"}
    )
    assert (store.name, store.status, store.metadata) == ("docs", "in_progress", {"team": "a"})
    assert (store.file_counts.in_progress, store.file_counts.total) == (1, 1)
    assert await acme.vector_stores.retrieve(store.id) == store
    assert (await acme.vector_stores.list()).data == [store]


async def test_pages_of_stores_and_files_hold_everything_once(acme: AsyncOpenAI) -> None:
    made = [(await acme.vector_stores.create(name=str(n))).id for n in range(5)]
    assert [store.id async for store in acme.vector_stores.list(limit=2)] == sorted(made, reverse=True)
    assert [store.id async for store in acme.vector_stores.list(limit=2, order="asc")] == sorted(made)
    files = [await upload(acme) for _ in range(5)]
    for file_id in files:
        await acme.vector_stores.files.create(made[0], file_id=file_id)
    listed = acme.vector_stores.files.list(made[0], limit=2)
    assert [file.id async for file in listed] == sorted(files, reverse=True)
    page = await acme.vector_stores.files.list(made[0], limit=5)
    assert page.has_more is False


async def test_a_file_is_added_polled_and_told_why_it_failed(desk: Desk, acme: AsyncOpenAI) -> None:
    store = await acme.vector_stores.create(name="docs")
    attributes = {"path": "a.md", "pages": 3, "ratio": 0.5, "draft": False}
    good = await acme.vector_stores.files.create(store.id, file_id=await upload(acme), attributes=attributes)
    bad = await acme.vector_stores.files.create(store.id, file_id=await upload(acme))
    assert (good.status, good.attributes) == ("in_progress", attributes)
    mine = desk.store.of(await desk.keys.verify(acme.api_key))
    await mine.complete(store.id, good.id, "A", "a", [CHUNK], np.ones((1, 4), np.float32))
    await mine.fail(store.id, bad.id, "invalid_file", "no text in it")
    polled = await acme.vector_stores.files.poll(good.id, vector_store_id=store.id)
    assert (polled.status, polled.usage_bytes) == ("completed", 17)
    failed = await acme.vector_stores.files.poll(bad.id, vector_store_id=store.id)
    assert failed.last_error
    assert (failed.last_error.code, failed.last_error.message) == ("invalid_file", "no text in it")
    assert [file.id for file in (await acme.vector_stores.files.list(store.id, filter="failed")).data] == [bad.id]
    counts = (await acme.vector_stores.retrieve(store.id)).file_counts
    assert (counts.completed, counts.failed, counts.total) == (1, 1, 2)


async def test_polled_answers_say_when_to_ask_again(desk: Desk, acme: AsyncOpenAI) -> None:
    file_id = await upload(acme)
    store = await acme.vector_stores.create(file_ids=[file_id])
    client = desk.http(acme.api_key)
    for path in (
        f"files/{file_id}",
        f"vector_stores/{store.id}",
        f"vector_stores/{store.id}/files",
        f"vector_stores/{store.id}/files/{file_id}",
    ):
        assert int((await client.get(f"/v1/{path}")).headers["openai-poll-after-ms"]) >= 100


async def test_a_removed_file_is_out_of_the_index_but_still_a_file(desk: Desk, acme: AsyncOpenAI) -> None:
    file_id = await upload(acme)
    store = await acme.vector_stores.create(file_ids=[file_id])
    principal = await desk.keys.verify(acme.api_key)
    await desk.retrieves.replace(principal, store.id, Source(file_id, "a.md", "A"), [CHUNK], await FakeEmbeds().embed(["a"]))
    assert (await acme.vector_stores.files.delete(file_id, vector_store_id=store.id)).deleted
    assert desk.retrieves.files == {}
    with pytest.raises(NotFoundError):
        await acme.vector_stores.files.retrieve(file_id, vector_store_id=store.id)
    assert (await acme.files.retrieve(file_id)).id == file_id


async def test_a_name_that_no_database_takes_is_400(desk: Desk) -> None:
    async with desk.http(await desk.key("acme")) as http:
        response = await http.post("/v1/vector_stores", json={"name": "a\x00b"})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "name"
