"""Turns that are kept to be looked at."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from deployments.core.errors import NotFound
from deployments.core.keys import Keys
from deployments.core.spans import Telemetry
from deployments.core.store import Store
from deployments.core.timings import Timings
from deployments.core.traces import LONGEST_BYTES, MOST_WAITING, Trace, Traces
from deployments.core.types import Message, Usage
from pipeline.cli.trace import told, waterfall
from tests.fakes import Clock, database, until
from tests.house import House

DAY_S = 86_400
SAID = "the canary sings"


def one(number: int = 1, answer: str = SAID, created_at: int = 1_000_000_000) -> Trace:
    asked = (Message("user", "What sings?"),)
    return Trace(f"resp_{number}", "ours", created_at, "headrace", "ok", 12.5, 99.0, asked=asked, answer=answer, usage=Usage(3, 4))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with database(tmp_path, Clock()) as store:
        await Keys(store, b"pepper").add_tenant("ours", "ours")
        yield store


async def test_what_is_kept_is_found_again_and_that_it_was_read_is_on_record(store: Store) -> None:
    traces = Traces(store, Telemetry(kept=1))
    traces.note(one())
    await traces.flush()
    assert await traces.get("resp_1", "the operator") == one()
    assert await traces.list(5) == [("resp_1", "ours", 1_000_000_000)]
    entry = (await store.audit.entries(0))[-1]
    assert (entry.actor, entry.act, entry.tenant, entry.subject) == ("the operator", "trace.read", "ours", "resp_1")


async def test_it_is_sealed(store: Store, tmp_path: Path) -> None:
    traces = Traces(store, Telemetry(kept=1))
    traces.note(one())
    await traces.flush()
    assert not [file for file in tmp_path.iterdir() if SAID.encode() in file.read_bytes()]


async def test_what_nobody_kept_is_not_found(store: Store) -> None:
    with pytest.raises(NotFound):
        await Traces(store, Telemetry(kept=1)).get("resp_9", "the operator")


async def test_old_ones_are_deleted(store: Store) -> None:
    traces = Traces(store, Telemetry(kept=1, kept_days=7))
    now = int(store.clock())
    traces.note(one(1, created_at=now - 8 * DAY_S))
    traces.note(one(2, created_at=now - 6 * DAY_S))
    await traces.flush()
    await traces.clean()
    assert [name for name, *_ in await traces.list(5)] == ["resp_2"]


async def test_a_large_one_is_kept_without_what_was_said(store: Store) -> None:
    traces = Traces(store, Telemetry(kept=1))
    traces.note(one(answer="x" * LONGEST_BYTES))
    await traces.flush()
    found = await traces.get("resp_1", "the operator")
    assert (found.answer, found.asked, found.ms) == ("", (), 99.0)


async def test_a_share_of_turns_is_wanted_and_no_more_than_can_wait(store: Store) -> None:
    names = [f"resp_{number}" for number in range(2000)]
    wanted = [sum(Traces(store, Telemetry(kept=share)).wants(name) for name in names) for share in (0, 0.1, 1)]
    assert wanted[0] == 0
    assert 140 < wanted[1] < 260
    assert wanted[2] == 2000
    full = Traces(store, Telemetry(kept=1))
    for number in range(MOST_WAITING):
        full.note(one(number))
    assert not full.wants("resp_1")


def test_a_trace_is_shown_with_its_stages_and_moves_no_cursor() -> None:
    timings = Timings()
    timings.note("admit", 0, 0.01)
    timings.note("generate", 0.01, 0.09, "failed")
    lines = list(waterfall(timings.stages, 100))
    assert [text.split()[:3] for text in lines] == [["admit", "0.0", "10.0"], ["generate", "10.0", "90.0"]]
    assert lines[1].endswith("failed")
    shown = "\n".join(told(one(answer="red \x1b[31m\x07 text")))
    assert "What sings?" in shown
    assert "\x1b" not in shown
    assert "\x07" not in shown


async def test_a_gateway_keeps_what_it_answered_and_an_operator_reads_it(house: House) -> None:
    context = house.context
    context.traces._settings = Telemetry(kept=1)
    key = await context.keys.mint("ours", ["admin"])
    async with house.http() as http, house.http(key.secret) as operator:
        answer = await http.post("/v1/chat/completions", json={"model": "headrace", "messages": [{"role": "user", "content": "Hi"}]})
        name = answer.json()["id"]
        await until(lambda: listed(context.traces), equals=[name])
        assert (await operator.get("/admin/traces")).json()["data"][0]["id"] == name
        kept = (await operator.get(f"/admin/traces/{name}")).json()
        refused = await http.get(f"/admin/traces/{name}")
    assert (kept["answer"], kept["asked"][0]["content"], kept["outcome"]) == ("Hello world.", "Hi", "ok")
    assert kept["stages"][0]["stage"] == "admit"
    assert refused.status_code == 403


async def listed(traces: Traces) -> list[str]:
    return [name for name, *_ in await traces.list(5)]
