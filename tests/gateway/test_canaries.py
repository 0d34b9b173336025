"""Prompts and canaries by the administrator's API."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from httpx2 import AsyncClient

from deployments.core.config import Gateway, Generator, Settings
from deployments.core.sections import Upstream
from tests.fakes import Desk, database


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    backends = Generator(fallbacks=(Upstream(name="fast", base_url="http://127.0.0.1:9/v1", model="m"),))
    async with database(tmp_path) as store:
        yield Desk(store, Settings(data_dir=tmp_path, gateway=Gateway(key_cache_s=0), generator=backends))


@pytest.fixture
async def admin(desk: Desk) -> AsyncIterator[AsyncClient]:
    async with desk.http(await desk.key("office", "admin")) as http:
        yield http


async def call(http: AsyncClient, method: str, path: str, status: int = 200, **body: Any) -> dict[str, Any]:
    answer = await http.request(method, f"/admin/{path}", json=body or None)
    assert answer.status_code == status, answer.text
    return answer.json()


async def test_prompts_are_added_shown_and_made_current(admin: AsyncClient) -> None:
    path = "tenants/office/prompts"
    first = await call(admin, "POST", path, id="greeting", template="Hello {{name}}")
    assert (first["object"], first["version"], first["variables"], first["current"]) == ("prompt", "1", ["name"], True)
    second = await call(admin, "POST", path, id="greeting", template="Hi {{name}}")
    assert await call(admin, "GET", f"{path}/greeting") == first
    assert await call(admin, "GET", f"{path}/greeting?version=2") == second
    used = await call(admin, "POST", f"{path}/greeting/use", version="2")
    assert [one["current"] for one in used["data"]] == [False, True]
    assert (await call(admin, "GET", path))["data"] == used["data"]


async def test_a_canary_goes_through_its_life(admin: AsyncClient) -> None:
    begun = await call(admin, "POST", "canaries", kind="model", value="fast", weight=0.1)
    assert (begun["object"], begun["status"], begun["weight"], begun["tenant"]) == ("canary", "running", 0.1, None)
    path = f"canaries/{begun['id']}"
    assert (await call(admin, "POST", f"{path}/weight", weight=0.3))["weight"] == 0.3
    assert (await call(admin, "POST", f"{path}/promote"))["status"] == "promoted"
    assert (await call(admin, "POST", f"{path}/weight", 400, weight=0.5))["error"]["code"] == "canary_ended"
    stopped = await call(admin, "POST", f"{path}/stop")
    assert stopped == await call(admin, "GET", path)
    assert (await call(admin, "GET", "canaries"))["data"] == [stopped]


async def test_a_backend_of_a_model_in_the_catalogue_may_be_the_variant(admin: AsyncClient) -> None:
    backend = {"name": "beside", "base_url": "http://127.0.0.1:9/v1", "model": "m"}
    await call(admin, "POST", "models", name="own", backends=["primary", backend])
    assert (await call(admin, "POST", "canaries", kind="model", value="beside"))["status"] == "running"


async def test_two_that_vary_the_same_conflict(admin: AsyncClient) -> None:
    await call(admin, "POST", "canaries", kind="retrieval", subject="limit", value="6")
    error = (await call(admin, "POST", "canaries", 409, kind="retrieval", subject="limit", value="8"))["error"]
    assert error["code"] == "already_exists"


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("canaries", {"kind": "model", "value": "absent"}, "value"),
    ("canaries", {"kind": "model"}, "value"),
    ("canaries", {"kind": "model", "value": "fast", "weight": 2}, "weight"),
    ("canaries", {"kind": "model", "value": "fast", "reason": "x"}, "reason"),
    ("tenants/office/prompts", {"id": "greeting", "template": "{{ name }}"}, "template"),
    ("tenants/office/prompts", {"id": "greeting", "template": "x" * 16_385}, "template"),
    ("tenants/office/prompts", {"id": "a b", "template": "x"}, "id"),
    ("tenants/office/prompts", {"id": "grounded", "template": "{{x}}"}, "template"),
    ("tenants/office/prompts", {"id": "greeting", "template": "x", "version": "7"}, "version"),
]


@pytest.mark.parametrize(("path", "body", "param"), WRONG, ids=str)
async def test_what_is_wrong_is_named_and_leaves_nothing(admin: AsyncClient, path: str, body: dict[str, Any], param: str) -> None:
    assert (await call(admin, "POST", path, 400, **body))["error"]["param"] == param
    assert (await call(admin, "GET", path))["data"] == []


ABSENT = [
    ("GET", "canaries/none"),
    ("POST", "canaries/none/promote"),
    ("POST", "canaries/none/stop"),
    ("GET", "tenants/none/prompts"),
    ("GET", "tenants/office/prompts/none"),
    ("GET", "tenants/office/prompts/a%00"),
]


@pytest.mark.parametrize(("method", "path"), ABSENT, ids=str)
async def test_what_is_not_there_is_not_found(admin: AsyncClient, method: str, path: str) -> None:
    await call(admin, method, path, 404)
