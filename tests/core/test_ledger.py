"""The ledger: attempts are summed by what they were of, and nothing is lost where SQL is away for a while."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from deployments.core.account import OK, Account, Attempt
from deployments.core.ledger import DIMENSIONS, Entry, Ledger
from deployments.core.sheet import sheet
from deployments.core.store import Store
from tests.fakes import Clock, database, tenant

DAY_S = 86_400


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(tmp_path: Path, clock: Clock) -> AsyncIterator[Store]:
    async with database(tmp_path, clock) as store:
        for name in ("acme", "bolt"):
            await tenant(store, name)
        yield store


def account(user: str = "", model: str = "headrace") -> Account:
    return Account("key_1", user, model, "grounded/small", "house@2")


async def test_attempts_are_summed_by_whatever_is_asked_for(store: Store, clock: Clock) -> None:
    ledger = Ledger(store)
    ledger.note("acme", account("ada"), Attempt("primary", "backend_error", 100, 3, 5))
    ledger.note("acme", account("ada"), Attempt("spare", OK, 100, 20, 2_000_000_000))
    await ledger.flush()
    ledger.note("acme", account("bob"), Attempt("spare", OK, 10, 2, 7))
    ledger.note("bolt", account("ada", "other"), Attempt("spare", OK, 1, 1, 0))
    await ledger.flush()
    assert await ledger.sums(["tenant"], 1, 9) == [Entry(3, 210, 25, 2.000000012, tenant="acme"), Entry(1, 1, 1, 0, tenant="bolt")]
    assert await ledger.sums(["user"], 1, 9, "acme") == [Entry(2, 200, 23, 2.000000005, user="ada"), Entry(1, 10, 2, 7e-9, user="bob")]
    assert await ledger.sums([], 1, 9) == [Entry(4, 211, 26, 2.000000012)]
    assert len(await ledger.sums(["backend", "outcome"], 1, 1)) == 1
    (first, *_) = await ledger.sums(DIMENSIONS, 1, 9, "bolt")
    assert (first.route, first.prompt, first.key_id, first.model) == ("grounded/small", "house@2", "key_1", "other")
    clock.now += DAY_S
    assert await ledger.sums(["tenant"], 1, 9) == []
    ledger.note("acme", account(), Attempt("spare", OK, 1, 1, 0))
    await ledger.flush()
    days = [entry.day for entry in await ledger.sums(["day"], 2, 9)]
    assert len(set(days)) == 2
    assert days == sorted(days, key=str, reverse=True)


@pytest.mark.parametrize("error", [OperationalError("insert", None, Exception("the disk is full")), ConnectionRefusedError("no")])
async def test_what_can_not_be_written_is_written_later_and_once(store: Store, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    ledger = Ledger(store)
    ledger.note("acme", account(), Attempt("primary", OK, 5, 5, 5))

    def away() -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(store, "write", away)
        await ledger.flush()
    assert await ledger.sums([], 1, 9) == []
    ledger.note("acme", account(), Attempt("primary", OK, 1, 1, 1))
    for _ in range(2):
        await ledger.flush()
    assert await ledger.sums([], 1, 9) == [Entry(2, 6, 6, 6e-9)]


def test_a_spreadsheet_takes_no_name_for_a_formula() -> None:
    text = sheet(["user", "model"], [Entry(1, 2, 3, 0.5, user='=HYPERLINK("http://x")', model="a,b")])
    assert text.splitlines() == ["user,model,attempts,prompt_tokens,completion_tokens,cost", '"\'=HYPERLINK(""http://x"")","a,b",1,2,3,0.5']
