"""/admin/usage: the ledger over HTTP, for administrators."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from httpx2 import AsyncClient

from deployments.core.account import OK, Account, Attempt
from deployments.core.config import Settings
from deployments.core.ledger import Ledger
from tests.fakes import Clock, Desk, database


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with database(tmp_path, Clock()) as store:
        yield Desk(store, Settings(data_dir=tmp_path))


@pytest.fixture
async def admin(desk: Desk) -> AsyncIterator[AsyncClient]:
    async with desk.http(await desk.key("office", "admin")) as http:
        ledger = Ledger(desk.store)
        for user, backend in (("ada", "one"), ("ada", "two"), ("bob", "two")):
            account = Account("key_1", user, "headrace", "direct", "")
            ledger.note("office", account, Attempt(backend, OK, 10, 5, 250_000_000))
        await ledger.flush()
        yield http


async def test_sums_come_by_what_is_asked_for_in_pages(admin: AsyncClient) -> None:
    page = (await admin.get("/admin/usage", params={"by": ["user"], "days": 1})).json()
    ada = {"attempts": 2, "prompt_tokens": 20, "completion_tokens": 10, "cost": 0.5, "user": "ada"}
    assert page == {
        "object": "list",
        "data": [ada, ada | {"attempts": 1, "prompt_tokens": 10, "completion_tokens": 5, "cost": 0.25, "user": "bob"}],
        "has_more": False,
    }
    short = (await admin.get("/admin/usage", params={"by": ["user", "backend"], "limit": 1})).json()
    assert (len(short["data"]), short["has_more"]) == (1, True)
    (usual,) = (await admin.get("/admin/usage")).json()["data"]
    assert set(usual) == {"day", "tenant", "model", "attempts", "prompt_tokens", "completion_tokens", "cost"}
    assert (await admin.get("/admin/usage", params={"tenant": "other"})).json()["data"] == []


async def test_it_comes_as_a_spreadsheet(admin: AsyncClient) -> None:
    answer = await admin.get("/admin/usage", params={"by": "backend", "format": "csv"})
    assert answer.headers["content-type"].startswith("text/csv")
    assert answer.text.splitlines() == ["backend,attempts,prompt_tokens,completion_tokens,cost", "one,1,10,5,0.25", "two,2,20,10,0.5"]


@pytest.mark.parametrize(
    "params", [{"by": "secrets"}, {"days": 0}, {"days": 400}, {"limit": 10_001}, {"format": "pdf"}, {"tenant": "t" * 65}]
)
async def test_what_can_not_be_asked_for_is_refused_by_its_name(admin: AsyncClient, params: dict[str, str]) -> None:
    answer = await admin.get("/admin/usage", params=params)
    assert answer.status_code == 400
    assert next(iter(params)) in answer.text


async def test_others_see_nothing_of_it(desk: Desk) -> None:
    async with desk.http(await desk.key("acme", "chat")) as http:
        assert (await http.get("/admin/usage")).status_code == 403
