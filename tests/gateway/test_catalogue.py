"""Models as callers see them, and /admin/models."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from httpx2 import AsyncClient
from pydantic import SecretStr

from deployments.core.catalogue import Models
from deployments.core.config import Gateway, Settings
from deployments.core.models import Model
from deployments.core.sections import Generator
from deployments.core.tenants import Tenants, Terms
from deployments.core.types import Route
from tests.fakes import Clock, Desk, database, until
from tests.house import House

CLOCK = Clock()
OWN = {"name": "own", "base_url": "https://own.example/v1", "model": "m", "key": "ours", "input_cost": 0.5}
MINE = {"name": "team/mine", "retrieves": False, "backends": ["primary", OWN], "limits": {"requests_per_minute": 2}}


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    generator = Generator(keys={"ours": SecretStr("secret")})
    settings = Settings(data_dir=tmp_path, gateway=Gateway(key_cache_s=0), generator=generator)
    async with database(tmp_path, CLOCK) as store:
        yield Desk(store, settings)


@pytest.fixture
async def admin(desk: Desk) -> AsyncIterator[AsyncClient]:
    async with desk.http(await desk.key("office", "admin")) as http:
        yield http


async def listed(desk: Desk, secret: str) -> list[str]:
    async with desk.http(secret) as http:
        return [model["id"] for model in (await http.get("/v1/models")).json()["data"]]


CALLS = [("GET", ""), ("POST", ""), ("GET", "/headrace"), ("DELETE", "/headrace")]


@pytest.mark.parametrize(("method", "path"), CALLS)
async def test_without_a_key_is_401_and_without_the_scope_403(desk: Desk, method: str, path: str) -> None:
    for key, status in (("", 401), (await desk.key("acme", "chat"), 403)):
        async with desk.http(key) as http:
            assert (await http.request(method, f"/admin/models{path}", json=MINE)).status_code == status


async def test_a_model_is_added_shown_changed_and_removed(admin: AsyncClient) -> None:
    made = (await admin.post("/admin/models", json=MINE)).json()
    assert (made["object"], made["name"], made["backends"][0]) == ("logical_model", "team/mine", "primary")
    assert (made["backends"][1]["input_cost"], made["limits"]["requests_per_minute"]) == (0.5, 2)
    assert "secret" not in str(made)
    assert (await admin.get("/admin/models/team/mine")).json() == made
    assert [one["name"] for one in (await admin.get("/admin/models")).json()["data"]] == ["headrace", "headrace-direct", "team/mine"]
    assert (await admin.post("/admin/models", json=MINE | {"on_break": "fail"})).json() == made | {"on_break": "fail"}
    assert (await admin.delete("/admin/models/team/mine")).json() == {"id": "team/mine", "object": "logical_model.deleted", "deleted": True}
    assert (await admin.get("/admin/models/team/mine")).status_code == 404
    acts = [json.loads(line)["act"] for line in (await admin.get("/admin/audit")).text.splitlines()]
    assert acts[-3:] == ["model.added", "model.changed", "model.removed"]


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"name": "headrace"}, "name"),
        ({"name": "a b"}, "name"),
        ({"backends": ["nobody"]}, "backends"),
        ({"backends": [OWN | {"key": "theirs"}]}, "backends"),
        ({"backends": [OWN | {"base_url": "file:///etc/passwd"}]}, "backends[0].base_url"),
        ({"backends": ["primary"] * 17}, "backends"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
async def test_what_can_not_be_is_refused_by_name(admin: AsyncClient, wrong: dict[str, Any], param: str) -> None:
    answer = await admin.post("/admin/models", json=MINE | wrong)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"].startswith(param)
    assert (await admin.delete("/admin/models/headrace")).status_code == 400
    assert (await admin.delete("/admin/models/nobody")).json()["error"]["code"] == "model_not_found"


async def test_callers_see_the_models_they_may_name(desk: Desk, admin: AsyncClient) -> None:
    everything, some = await desk.key("acme"), await desk.key("bread")
    await admin.patch("/admin/tenants/bread", json={"models": ["team/mine", "team/later"]})
    assert await listed(desk, everything) == ["headrace", "headrace-direct"]
    await admin.post("/admin/models", json=MINE)
    await until(lambda: listed(desk, everything), equals=["headrace", "headrace-direct", "team/mine"], within_s=2)
    assert await listed(desk, some) == ["team/mine"]
    async with desk.openai(some) as client:
        assert (await client.models.retrieve("team/mine")).id == "team/mine"
    async with desk.http(some) as http:
        assert (await http.get("/v1/models/team%2Fmine")).status_code == 200
        for name in ("headrace", "team/later"):
            assert (await http.get(f"/v1/models/{name}")).json()["error"]["code"] == "model_not_found"


async def named(house: House, **fields: Any) -> None:
    """Put a model into the catalogue of a house that has not read it yet."""
    await Models(house.context.store, house.context.settings, "test").put(Model(name="mine", **fields))


ASK: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}]},
    "/v1/completions": {"prompt": "Hi"},
    "/v1/responses": {"input": "Hi"},
}


@pytest.mark.parametrize("retrieves", [True, False])
async def test_every_way_to_ask_takes_a_model_of_the_catalogue(house: House, retrieves: bool) -> None:
    store = await house.context.store.of(await house.context.keys.verify(house.key)).add_store("default")
    await named(house, retrieves=retrieves, backends=("primary",))
    async with house.http() as http:
        for path, body in ASK.items():
            assert (await http.post(path, json={"model": "mine"} | body)).json()["model"] == "mine"
            unknown = await http.post(path, json={"model": "nobody"} | body)
            assert (unknown.status_code, unknown.json()["error"]["param"]) == (404, "model")
    assert {turn.store_id for turn in house.flow.turns} == {store.id if retrieves else None}
    assert {(turn.model, turn.handling.retrieves) for turn in house.flow.turns} == {("mine", retrieves)}


async def test_a_models_own_limits_hold_for_each_tenant(house: House) -> None:
    await named(house, limits={"requests_per_minute": 2})
    await house.context.keys.add_tenant("others", "others")
    other = await house.context.keys.mint("others", ["chat"])
    body = {"model": "mine"} | ASK["/v1/chat/completions"]
    for key in (house.key, other.secret):
        async with house.http(key) as http:
            assert [(await http.post("/v1/chat/completions", json=body)).status_code for _ in range(3)] == [200, 200, 429]
            assert (await http.post("/v1/chat/completions", json=body | {"model": "headrace"})).status_code == 200


async def test_the_route_is_told_to_who_asks_for_it(house: House) -> None:
    house.flow.route = Route(True, 900, "complexity 0.70 is not under 0.50", "large")
    async with house.http() as http:
        for path, body in ASK.items():
            for stream in (False, True):
                asked = {"model": "headrace", "stream": stream} | body
                told = await http.post(path, json=asked, headers={"x-headrace-route": "1"})
                assert told.headers["x-headrace-route"] == "retrieval; tier=large; complexity 0.70 is not under 0.50"
                assert "x-headrace-route" not in (await http.post(path, json=asked)).headers
            wrong = await http.post(path, json={"model": "headrace"} | body, headers={"x-headrace-route": "yes"})
            assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "x-headrace-route")


@pytest.mark.parametrize(("asked", "given"), [(None, "default"), ("auto", "default"), ("flex", "flex"), ("priority", "priority")])
async def test_the_service_is_handed_on_and_named_in_the_answer(house: House, asked: str | None, given: str) -> None:
    async with house.http() as http:
        for path, body in ASK.items():
            answer = (await http.post(path, json={"model": "headrace", "service_tier": asked} | body)).json()
            assert answer.get("service_tier", given) == given
            wrong = await http.post(path, json={"model": "headrace", "service_tier": "turbo"} | body)
            assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "service_tier")
    assert [turn.handling.service for turn in house.flow.turns] == [given] * len(ASK)


async def test_the_tenants_threshold_goes_with_its_turns(house: House) -> None:
    await Tenants(house.context.store, "test").update("ours", Terms(threshold=0.25))
    async with house.http() as http:
        for path, body in ASK.items():
            assert (await http.post(path, json={"model": "headrace"} | body)).status_code == 200
    assert [turn.handling.threshold for turn in house.flow.turns] == [0.25] * len(ASK)
