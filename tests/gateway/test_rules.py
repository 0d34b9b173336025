"""Who may call what: a matrix made from the application's own routes, so that a new route is in it or does not get in at all."""

import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import APIRouter, FastAPI
from httpx2 import AsyncClient, Response
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from deployments.core.config import Gateway, Settings
from deployments.core.keys import SCOPES
from deployments.core.members import Placing
from deployments.core.responses import Item, StoredResponse
from deployments.core.store import Store
from deployments.core.tenants import Tenants
from deployments.core.types import Chunk
from deployments.core.vault import Vault
from deployments.gateway.context import SESSION_COOKIE, Asker, Reader
from deployments.gateway.responses import ResponseRequest
from deployments.gateway.rules import PUBLIC, Rule, Unguarded, rules
from tests.fakes import ROOT, Clock, Desk, database

CLOCK = Clock()


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with database(tmp_path, CLOCK) as store:
        yield Desk(store, Settings(data_dir=tmp_path, gateway=Gateway(key_cache_s=0)))


@dataclass
class Callers:
    """The secrets of one caller of each kind, each but the named one with every scope."""

    valid: str
    wrong_scope: str
    expired: str
    revoked: str
    suspended: str
    other: str


async def callers(desk: Desk, scope: str) -> Callers:
    for tenant in ("ours", "theirs", "stopped"):
        await desk.keys.add_tenant(tenant, tenant)
    everything = list(SCOPES)
    expired = await desk.keys.mint("ours", everything, expires_at=int(CLOCK()))
    revoked = await desk.keys.mint("ours", everything)
    await desk.keys.revoke(revoked.id)
    without = await desk.keys.mint("ours", [one for one in everything if one != scope])
    made = [(await desk.keys.mint(tenant, everything)).secret for tenant in ("ours", "stopped", "theirs")]
    await Tenants(desk.store, "test").suspend("stopped")
    return Callers(made[0], without.secret, expired.secret, revoked.secret, made[1], made[2])


def application(folder: Path) -> FastAPI:
    """The application as it is built, for its routes alone; nothing is opened."""
    return Desk(Store(f"sqlite+aiosqlite:///{folder}/none.db", Vault(ROOT)), Settings(data_dir=folder)).app


RULES = rules(application(Path("/nonexistent")).routes)
GUARDED = [rule for rule in RULES if rule.scope != PUBLIC and rule.method != "WEBSOCKET"]
BEARER = [rule for rule in GUARDED if not rule.path.startswith("/files/")]


def shown(rule: Rule) -> str:
    return f"{rule.method} {rule.path}"


async def call(desk: Desk, rule: Rule, secret: str = "") -> Response:
    """Call a route with a key, or where it takes one with the session that the key opens."""
    path = re.sub(r"\{[^}]*\}", "none", rule.path)
    async with desk.http("" if rule not in BEARER else secret) as http:
        if rule in BEARER:
            return await http.request(rule.method, path, json={} if rule.method in ("POST", "PATCH") else None)
        return await page(desk, http, rule, path, secret)


async def page(desk: Desk, http: AsyncClient, rule: Rule, path: str, secret: str) -> Response:
    if rule.method == "POST":
        return await http.post(path, data={"key": secret}, headers={"sec-fetch-site": "same-origin"})
    grant = await desk.keys.grants.of_secret(secret)
    if grant:
        cookie = await desk.keys.open_session(grant.principal(0)) if not grant.revoked and not grant.tenant.suspended_at else "x"
        http.cookies.set(SESSION_COOKIE, cookie)
    return await http.get(path)


def test_every_route_has_a_rule_and_few_are_public() -> None:
    assert {shown(rule) for rule in RULES if rule.scope == PUBLIC} == {"GET /health", "GET /health/ready"}
    assert {rule.scope for rule in RULES} - {PUBLIC} == set(SCOPES)
    assert {rule.scope for rule in RULES if rule.path.startswith("/admin")} == {"admin"}
    assert len(RULES) > 40


@pytest.mark.parametrize("rule", BEARER, ids=shown)
async def test_only_who_may_call_a_route_gets_past_its_door(desk: Desk, rule: Rule) -> None:
    who = await callers(desk, rule.scope)
    for secret in ("", "hr_wrong", "a.b.c", who.expired, who.revoked):
        refused = await call(desk, rule, secret)
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
    lacking = await call(desk, rule, who.wrong_scope)
    assert (lacking.status_code, lacking.json()["error"]["code"]) == (403, "insufficient_scope")
    stopped = await call(desk, rule, who.suspended)
    assert (stopped.status_code, stopped.json()["error"]["code"]) == (403, "tenant_suspended")
    assert (await call(desk, rule, who.valid)).status_code not in (401, 403, 405)
    other = await call(desk, rule, who.other)
    assert other.status_code == (await call(desk, rule, who.valid)).status_code


@pytest.mark.parametrize("rule", [rule for rule in GUARDED if rule not in BEARER], ids=shown)
async def test_a_page_opens_to_who_may_read_it(desk: Desk, rule: Rule) -> None:
    who = await callers(desk, rule.scope)
    for secret in ("", "hr_wrong", "a.b.c", who.revoked):
        assert (await call(desk, rule, secret)).status_code == 401
    assert (await call(desk, rule, who.wrong_scope)).status_code in (401, 403)
    assert (await call(desk, rule, who.valid)).status_code in (303, 404)
    if rule.method == "POST":
        assert (await call(desk, rule, who.expired)).status_code == 401
        assert (await call(desk, rule, who.suspended)).status_code == 403


async def owned(desk: Desk, secret: str) -> dict[str, str]:
    """One object of each kind that belongs to a caller, by the name its id has in a path."""
    mine = desk.store.of(await desk.keys.verify(secret))
    file, collection = await mine.add_file("wheel.md", "assistants", b"Water turns it."), await mine.add_store("docs")
    await mine.add_member(collection.id, file.id, {})
    conversation = await mine.conversations.add({}, [Item("msg_1", b'{"id":"msg_1","type":"message","role":"user","content":"Hi"}')])
    asked = ResponseRequest.model_validate({"model": "headrace", "input": "Hi"})
    plan = asked.plan(await desk.keys.verify(secret), desk.settings, CLOCK(), None)
    ended = json.dumps(plan.snapshot | {"status": "completed"}).encode()
    await mine.responses.add(StoredResponse(plan.turn.id, "completed", True, 1, None, None, plan.asked, ended), [])
    batch = await mine.batches.add(collection.id, {file.id: Placing()})
    upload = await mine.uploads.add("mill.md", "assistants", 1, 3600, 16)
    kept = {"batch_id": batch.id, "upload_id": upload.id}
    await mine.complete(collection.id, file.id, "Wheel", "Water", [Chunk(0, "Water", (), 0, 5, 1)], np.ones((1, 64), np.float32))
    ids = kept | {"file_id": file.id, "store_id": collection.id, "conversation_id": conversation.id, "item_id": "msg_1"}
    return ids | {"response_id": plan.turn.id}


OWNED = [rule for rule in BEARER if "{" in rule.path and rule.scope != "admin" and not rule.path.startswith("/v1/models")]
BODIES = {"metadata": {"a": "b"}, "items": [{"type": "message", "role": "user", "content": "Hi"}], "query": "Hi", "attributes": {"a": 1}}


@pytest.mark.parametrize("rule", OWNED, ids=shown)
async def test_another_tenants_object_is_as_absent_as_none(desk: Desk, rule: Rule) -> None:
    who = await callers(desk, rule.scope)
    ids = await owned(desk, who.valid)
    absent = {name: value[:-4] + "0000" for name, value in ids.items()}
    sent = BODIES | {"file_id": ids["file_id"], "file_ids": [ids["file_id"]]} if rule.method == "POST" else None
    if sent and rule.path.endswith("/complete"):
        uploads = desk.store.of(await desk.keys.verify(who.valid)).uploads
        sent["part_ids"] = [(await uploads.put(ids["upload_id"], b"x")).id]

    async def ask(secret: str, names: dict[str, str]) -> Response:
        async with desk.http(secret) as http:
            if rule.path.endswith("/parts"):
                return await http.post(rule.path.format(**names), files={"data": ("upload", b"x")})
            return await http.request(rule.method, rule.path.format(**names), json=sent)

    foreign, none = await ask(who.other, ids), await ask(who.other, absent)
    assert (foreign.status_code, none.status_code) == (404, 404)
    told = none.text
    for name, value in ids.items():
        told = told.replace(absent[name], value)
    assert foreign.text == told
    mine = await ask(who.valid, ids)
    assert mine.status_code in (200, 503)  # the events are in Valkey, which is not there


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule.scope == PUBLIC], ids=shown)
async def test_what_is_public_names_nobody(desk: Desk, rule: Rule) -> None:
    await desk.keys.add_tenant("ours", "ours")
    async with desk.http() as http:
        answer = await http.request(rule.method, rule.path)
    assert answer.status_code in (200, 503)
    assert "ours" not in answer.text


def routed(*routes: Any) -> FastAPI:
    app, router = FastAPI(openapi_url=None), APIRouter()
    for route in routes:
        router.add_api_route("/new", route) if callable(route) else router.routes.append(route)
    app.include_router(router)
    return app


async def nobody() -> None: ...


async def asked(caller: Asker) -> None: ...


async def both(caller: Asker, reader: Reader) -> None: ...


def test_a_route_with_a_scope_is_let_in() -> None:
    assert rules(routed(asked).routes) == [Rule("GET", "/new", "chat")]


UNRULED = [nobody, both, Route("/raw", PlainTextResponse("x")), Mount("/static", routes=[])]


@pytest.mark.parametrize("route", UNRULED, ids=["none", "several", "raw", "mount"])
def test_a_route_without_one_rule_stops_the_application_from_being_built(route: Any) -> None:
    with pytest.raises(Unguarded):
        rules(routed(route).routes)
