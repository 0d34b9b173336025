"""B3: nobody raises their own powers: not by a field, not by a token, not by one key's secret used for another's job."""

import itertools
from typing import Any

import jwt
import pytest

from deployments.core.derived import Derived
from deployments.core.keys import SCOPES
from tests.house import House

FIELDS: list[dict[str, Any]] = [
    {"scopes": ["admin"]},
    {"scope": "admin"},
    {"tenant": "office"},
    {"tenant_id": "office"},
    {"principal": {"scopes": ["admin"]}},
    {"role": "admin"},
    {"is_admin": True},
    {"limits": {"requests_per_minute": None}},
    {"key_id": "key_admin"},
    {"expires_at": 2**40},
]
ADMIN = [
    ("GET", "/admin/tenants"),
    ("POST", "/admin/tenants"),
    ("PATCH", "/admin/tenants/ours"),
    ("POST", "/admin/tenants/ours/keys"),
    ("POST", "/admin/tenants/ours/resume"),
    ("GET", "/admin/audit"),
]


@pytest.mark.parametrize("scopes", [[scope for scope in SCOPES if scope != "admin"], ["chat"], []], ids=len)
async def test_no_field_opens_the_administrators_door(house: House, scopes: list[str]) -> None:
    secret = (await house.context.keys.mint("ours", scopes)).secret
    before = len(await house.context.store.audit.entries())
    async with house.http(secret) as http:
        for (method, path), fields in itertools.product(ADMIN, FIELDS):
            query = {name: str(value) for name, value in fields.items()}
            answer = await http.request(
                method, path, json=fields, params=query, headers={f"x-{name}": value for name, value in query.items()}
            )
            assert answer.status_code == 403, (method, path, fields)
    assert len(await house.context.store.audit.entries()) == before


async def test_no_field_of_a_request_makes_it_another_callers(house: House) -> None:
    async with house.http() as http:
        for fields in FIELDS:
            answer = await http.post(
                "/v1/chat/completions", json={"model": "headrace", "messages": [{"role": "user", "content": "Hi"}]} | fields
            )
            assert answer.status_code in (200, 400)
    assert {turn.principal.tenant for turn in house.flow.turns} == {"ours"}
    assert {turn.principal.user for turn in house.flow.turns} == {None}
    assert all("admin" not in turn.principal.scopes for turn in house.flow.turns)


async def test_no_field_gets_a_token_more_than_its_key_has(house: House) -> None:
    minter = await house.context.keys.mint("ours", ["chat", "tokens:mint"])
    async with house.http(minter.secret) as http:
        for fields in FIELDS:
            assert (await http.post("/v1/session_tokens", json={"user": "ann"} | fields)).status_code in (400, 403), fields


async def test_a_secret_of_one_job_does_no_other(house: House) -> None:
    """Each derived key signs a token; only the one for session tokens opens anything."""
    keys = house.context.keys
    minter = await keys.verify((await keys.mint("ours", ["chat", "tokens:mint"])).secret)
    made = await house.context.tokens.mint(minter, "ann", frozenset({"chat"}), 60)
    claims = jwt.decode(made.token, options={"verify_signature": False})
    derived = Derived(b"pepper")
    others = [derived.api_keys, derived.browser_sessions, derived.socket_tickets, b"pepper" * 6, bytes(32)]
    for secret, status in [(derived.session_tokens, 200), *((other, 401) for other in others)]:
        async with house.http(jwt.encode(claims, secret, "HS256")) as http:
            assert (await http.get("/v1/models")).status_code == status
