"""/admin: what an administrator can do, and what stays out of reach."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from httpx2 import AsyncClient

from deployments.core.config import Gateway, Settings
from tests.fakes import Clock, Desk, database

CLOCK = Clock()


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with database(tmp_path, CLOCK) as store:
        yield Desk(store, Settings(data_dir=tmp_path, gateway=Gateway(key_cache_s=0)))


@pytest.fixture
async def admin(desk: Desk) -> AsyncIterator[AsyncClient]:
    async with desk.http(await desk.key("office", "admin")) as http:
        yield http


async def post(http: AsyncClient, path: str, status: int = 200, **body: Any) -> dict[str, Any]:
    answer = await http.post(path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


async def models(desk: Desk, secret: str) -> tuple[int, list[str]]:
    async with desk.http(secret) as http:
        answer = await http.get("/v1/models")
    return answer.status_code, [model["id"] for model in answer.json().get("data", [])]


async def test_a_tenant_is_made_changed_shown_and_listed(admin: AsyncClient) -> None:
    made = await post(admin, "/admin/tenants", id="acme", name="Acme", limits={"requests_per_minute": 60}, cache="exact")
    assert (made["object"], made["id"], made["limits"], made["models"]) == ("tenant", "acme", {"requests_per_minute": 60}, None)
    changed = (await admin.patch("/admin/tenants/acme", json={"weight": 2, "retention_days": 7})).json()
    assert changed == made | {"weight": 2, "retention_days": 7}
    assert (await admin.get("/admin/tenants/acme")).json() == changed
    assert [tenant["id"] for tenant in (await admin.get("/admin/tenants")).json()["data"]] == ["acme", "office"]
    assert (await post(admin, "/admin/tenants", name="Nameless"))["id"].startswith("ten_")
    assert (await post(admin, "/admin/tenants", 409, id="acme"))["error"]["code"] == "already_exists"


async def test_tenants_come_in_pages(admin: AsyncClient) -> None:
    for number in range(4):
        await post(admin, "/admin/tenants", id=f"t{number}", name="T")
    seen: list[str] = []
    more = True
    while more:
        page = (await admin.get("/admin/tenants", params={"limit": 2, "after": seen[-1] if seen else ""})).json()
        seen += [tenant["id"] for tenant in page["data"]]
        more = page["has_more"]
    assert seen == ["office", "t0", "t1", "t2", "t3"]


async def test_a_key_is_shown_once_works_rotates_and_ends(desk: Desk, admin: AsyncClient) -> None:
    await post(admin, "/admin/tenants", id="acme", name="Acme")
    made = await post(admin, "/admin/tenants/acme/keys", name="app", scopes=["chat"], limits={"concurrent": 2}, models=["headrace"])
    assert await models(desk, made["secret"]) == (200, ["headrace"])
    listed = await admin.get("/admin/tenants/acme/keys")
    assert [(key["id"], key["limits"], key["scopes"]) for key in listed.json()["data"]] == [(made["id"], {"concurrent": 2}, ["chat"])]
    assert made["secret"][15:] not in listed.text
    new = await post(admin, f"/admin/keys/{made['id']}/rotate", overlap_s=60)
    assert (new["models"], new["limits"], new["name"]) == (["headrace"], {"concurrent": 2}, "app")
    assert await models(desk, made["secret"]) == await models(desk, new["secret"]) == (200, ["headrace"])
    CLOCK.forward(60)
    assert (await models(desk, made["secret"]))[0] == 401
    assert (await admin.delete(f"/admin/keys/{new['id']}")).json()["revoked"] is True
    assert (await models(desk, new["secret"]))[0] == 401


async def test_a_key_that_expires_says_when(desk: Desk, admin: AsyncClient) -> None:
    made = await post(admin, "/admin/tenants/office/keys", scopes=["chat"], expires_in_s=60)
    assert made["expires_at"] == int(CLOCK()) + 60
    CLOCK.forward(60)
    assert (await models(desk, made["secret"]))[0] == 401


async def test_a_suspended_tenant_is_stopped_and_resumed(desk: Desk, admin: AsyncClient) -> None:
    secret = await desk.key("acme")
    assert (await post(admin, "/admin/tenants/acme/suspend"))["suspended_at"] == int(CLOCK())
    assert (await models(desk, secret))[0] == 403
    assert (await post(admin, "/admin/tenants/acme/resume"))["suspended_at"] is None
    assert (await models(desk, secret))[0] == 200


async def test_an_administrator_does_not_lock_themselves_out(admin: AsyncClient) -> None:
    assert (await post(admin, "/admin/tenants/office/suspend", 400))["error"]["code"] == "own_tenant"


EXTRA: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "/admin/tenants", {"id": "x", "suspended_at": 1}),
    ("POST", "/admin/tenants", {"id": "a/../b"}),
    ("POST", "/admin/tenants", {"id": "x" * 65}),
    ("PATCH", "/admin/tenants/office", {"id": "other"}),
    ("PATCH", "/admin/tenants/office", {"key": "x"}),
    ("PATCH", "/admin/tenants/office", {"limits": {"requests_per_second": 1}}),
    ("PATCH", "/admin/tenants/office", {"limits": {"concurrent": 1.5}}),
    ("POST", "/admin/tenants/office/keys", {"scopes": ["chat", "root"]}),
    ("POST", "/admin/tenants/office/keys", {"scopes": []}),
    ("POST", "/admin/tenants/office/keys", {"scopes": ["chat"], "secret": "hr_mine"}),
    ("POST", "/admin/tenants/office/keys", {"scopes": ["chat"], "tenant": "acme"}),
    ("POST", "/admin/keys/key_1/rotate", {"overlap_s": -1}),
    ("POST", "/admin/keys/key_1/rotate", {"overlap": 1}),
]


@pytest.mark.parametrize(("method", "path", "body"), EXTRA, ids=str)
async def test_a_body_holds_what_it_may_and_nothing_more(admin: AsyncClient, method: str, path: str, body: dict[str, Any]) -> None:
    before = (await admin.get("/admin/audit")).text
    answer = await admin.request(method, path, json=body)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    assert (await admin.get("/admin/audit")).text == before


@pytest.mark.parametrize("name", ["none", "%00", "a%20b", "x" * 65, "'; DROP TABLE tenants; --"])
async def test_what_is_not_there_is_not_found(admin: AsyncClient, name: str) -> None:
    for method, path in (("GET", "tenants/{}"), ("PATCH", "tenants/{}"), ("POST", "tenants/{}/suspend"), ("POST", "tenants/{}/resume")):
        answer = await admin.request(method, f"/admin/{path.format(name)}", json={} if method == "PATCH" else None)
        assert answer.status_code == 404, path
    for method, path in (("GET", "tenants/{}/keys"), ("POST", "tenants/{}/keys"), ("POST", "keys/{}/rotate"), ("DELETE", "keys/{}")):
        answer = await admin.request(
            method, f"/admin/{path.format(name)}", json={"scopes": ["chat"]} if path == "tenants/{}/keys" else None
        )
        assert answer.status_code == 404, path


async def test_the_record_is_exported_in_pages_and_verified(desk: Desk, admin: AsyncClient) -> None:
    for number in range(5):
        await post(admin, "/admin/tenants", id=f"t{number}", name="T")
    pages: list[dict[str, Any]] = []
    while lines := (await admin.get("/admin/audit", params={"after": pages[-1]["number"] if pages else 0, "limit": 3})).text.splitlines():
        pages += map(json.loads, lines)
    assert [entry["number"] for entry in pages] == list(range(1, 8))
    admin_key = pages[1]["subject"]
    assert {(entry["actor"], entry["act"]) for entry in pages[2:]} == {(admin_key, "tenant.created")}
    verdict = (await admin.get("/admin/audit/verify")).json()
    assert (verdict["entries"], verdict["head"], verdict["broken"]) == (7, pages[-1]["hash"], None)


async def test_refused_callers_are_on_record_once_a_minute_with_a_count(desk: Desk, admin: AsyncClient) -> None:
    weak = await desk.key("acme", "files:read")
    gone = await desk.keys.mint("acme", ["chat"])
    await desk.keys.revoke(gone.id)
    for _ in range(20):
        await models(desk, weak)
        await models(desk, gone.secret)
        await models(desk, "hr_mistyped-secret")
    before = len(await desk.store.audit.entries())
    await desk.refusals.flush()
    entries = (await desk.store.audit.entries())[before:]
    weak_id = (await desk.keys.verify(weak)).key_id
    assert {(entry.act, entry.tenant, entry.subject, entry.detail["count"]) for entry in entries} == {
        ("refused.insufficient_scope", "acme", weak_id, 20),
        ("refused.invalid_api_key", None, "127.0.0.1", 40),
    }
    assert "hr_mis" not in repr(entries)
    await desk.refusals.flush()
    assert len(await desk.store.audit.entries()) == before + 2


async def test_what_was_counted_is_written_when_the_gateway_ends(desk: Desk) -> None:
    running = asyncio.create_task(desk.refusals.run())
    await asyncio.sleep(0)
    desk.refusals.note("refused.invalid_api_key", "10.0.0.1")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert [entry.subject for entry in await desk.store.audit.entries()] == ["10.0.0.1"]


async def test_the_record_of_the_refused_is_bounded_however_many_there_are(desk: Desk) -> None:
    for number in range(2000):
        desk.refusals.note("refused.invalid_api_key", f"10.0.{number // 256}.{number % 256}")
    await desk.refusals.flush()
    entries = await desk.store.audit.entries()
    assert (len(entries), entries[-1].subject, sum(entry.detail["count"] for entry in entries)) == (501, "others", 2000)
    assert (await desk.store.audit.verify()).broken is None


async def test_a_caller_sees_and_uses_the_models_that_it_may(desk: Desk) -> None:
    await desk.key("acme")
    one = (await desk.keys.mint("acme", ["chat"], models=["headrace-direct"])).secret
    async with desk.http(one) as http:
        assert [model["id"] for model in (await http.get("/v1/models")).json()["data"]] == ["headrace-direct"]
        assert (await http.get("/v1/models/headrace-direct")).status_code == 200
        refused = [await http.get("/v1/models/headrace")]
        message = {"role": "user", "content": "Hi"}
        for path, body in (
            ("chat/completions", {"model": "headrace", "messages": [message]}),
            ("completions", {"model": "headrace", "prompt": "Hi"}),
            ("responses", {"model": "headrace", "input": "Hi"}),
            ("responses/input_tokens", {"model": "headrace", "input": "Hi"}),
            ("embeddings", {"model": "headrace-embed", "input": "Hi"}),
        ):
            refused.append(await http.post(f"/v1/{path}", json=body))
    assert {(answer.status_code, answer.json()["error"]["code"]) for answer in refused} == {(404, "model_not_found")}
