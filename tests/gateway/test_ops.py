"""/admin/ops and `headrace top`: how things are now."""

import asyncio
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from deployments.core.errors import BackendFailed
from deployments.core.telemetry import CACHE_LOOKUPS
from deployments.gateway.board import Stage
from deployments.gateway.client import EVERY_S, ServeBoard, stages
from deployments.gateway.lately import KEPT_S, Lately
from pipeline.cli.app import app
from pipeline.cli.top import shown
from tests.fakes import Desk, until
from tests.gateway.test_admin import admin, desk
from tests.house import House

__all__ = ["admin", "desk"]


class Known:
    """A board that knows what it was told."""

    def __init__(self, *known: Stage):
        self._known = known

    async def stages(self) -> list[Stage] | None:
        return list(self._known) or None


def show(house: House, board: Any) -> None:
    object.__setattr__(house.context, "board", board)


async def ops(house: House) -> dict[str, Any]:
    tenant = (await house.context.keys.verify(house.key)).tenant
    key = (await house.context.keys.mint(tenant, ["admin"])).secret
    async with house.http(key) as http:
        answer = await http.get("/admin/ops")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def ask(house: House) -> None:
    async with house.http() as http:
        await http.post("/v1/chat/completions", json={"model": "headrace", "messages": [{"role": "user", "content": "Hi"}]})


async def test_it_takes_the_scope_admin(desk: Desk) -> None:
    for key, status in (("", 401), (await desk.key("acme", "chat", "files:read"), 403)):
        async with desk.http(key) as http:
            assert (await http.get("/admin/ops")).status_code == status


async def test_answers_of_the_last_minute_are_told(house: House) -> None:
    assert (await ops(house))["answers"]["ended"] == 0
    await ask(house)
    house.flow.error = BackendFailed("broken")
    await ask(house)
    await until(lambda: house.context.lately.answers.ended == 2)
    seen = await ops(house)
    assert (seen["answers"]["failed"], seen["answers"]["tokens_per_s"]) == (1, round(2 / KEPT_S, 2))
    assert 0 < seen["answers"]["first_p50_ms"] <= seen["answers"]["first_p95_ms"]
    assert seen["queue"]["limit"] > 0
    assert seen["gateway"] == house.context.name


async def test_what_is_open_is_told(house: House) -> None:
    house.flow.held = True
    body = {"model": "headrace", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
    async with house.http() as http, http.stream("POST", "/v1/chat/completions", json=body) as response:
        pieces = response.aiter_bytes()
        await anext(pieces)
        seen = await ops(house)
        assert seen["open"] == {"answers": 1, "streams": 1, "sockets": 0}
        assert seen["queue"]["running"] == 1


async def test_stages_are_told_where_somebody_knows_them(house: House) -> None:
    assert (await ops(house))["stages"] is None
    show(house, Known(Stage("router", "healthy", 2, 1)))
    assert (await ops(house))["stages"] == [{"stage": "router", "status": "healthy", "target": 2, "running": 1}]
    show(house, Known())
    assert (await ops(house))["stages"] is None


async def test_a_queue_that_can_not_be_asked_is_none(admin: Any) -> None:
    seen = (await admin.get("/admin/ops")).json()
    assert (seen["object"], seen["queue"], seen["stages"]) == ("ops", None, None)


def test_what_is_older_than_a_minute_is_forgotten():
    now_s = 100.0
    lately = Lately(lambda: now_s)
    lately.look()
    lately.first(0.2)
    lately.ended(30, failed=True)
    CACHE_LOOKUPS.add("exact", "hit", by=3)
    CACHE_LOOKUPS.add("exact", "miss")
    assert [(one.looks, one.hits) for one in lately.caches if one.cache == "exact"] == [(4, 3)]
    assert (lately.answers.ended, lately.answers.failed, lately.answers.first_p50_ms, lately.answers.tokens_per_s) == (1, 1, 200, 0.5)
    now_s += 2 * KEPT_S
    lately.look()
    assert [(one.looks, one.hits) for one in lately.caches if one.cache == "exact"] == [(0, 0)]
    assert (lately.answers.ended, lately.answers.failed, lately.answers.first_p50_ms, lately.answers.tokens_per_s) == (0, 0, 0, 0)


def test_serves_details_are_read():
    replicas = [{"state": "RUNNING"}, {"state": "STARTING"}]
    deployments = {"router": {"status": "UPSCALING", "target_num_replicas": 2, "replicas": replicas}}
    assert stages({"applications": {"headrace": {"deployments": deployments}}}) == [Stage("router", "upscaling", 2, 1)]


class Serve:
    """A controller that counts how often it is asked, and fails when told to."""

    def __init__(self) -> None:
        self.asked, self.fails, self.now_s = 0, False, 0.0

    async def tell(self) -> dict[str, Any]:
        self.asked += 1
        await asyncio.sleep(0)
        if self.fails:
            raise TimeoutError
        return {"applications": {}}


async def test_serve_is_asked_once_in_two_seconds_however_many_ask_here():
    serve = Serve()
    board = ServeBoard(serve.tell, lambda: serve.now_s)
    assert await asyncio.gather(*(board.stages() for _ in range(20))) == [[]] * 20
    assert serve.asked == 1
    serve.fails, serve.now_s = True, EVERY_S
    assert await asyncio.gather(*(board.stages() for _ in range(20))) == [None] * 20
    assert serve.asked == 2
    serve.fails, serve.now_s = False, 2 * EVERY_S
    assert await board.stages() == []


SEEN: dict[str, Any] = {
    "object": "ops",
    "stages": [{"stage": "gateway", "status": "healthy", "target": 2, "running": 2}],
    "queue": {"running": 3, "waiting": 1, "limit": 8.0},
    "gateway": "host\x1b[2J:7",
    "window_s": 60.0,
    "answers": {"ended": 12, "failed": 1, "first_p50_ms": 310.5, "first_p95_ms": 450.0, "tokens_per_s": 42.5},
    "caches": [{"cache": "exact", "looks": 10, "hits": 4}],
    "open": {"answers": 2, "streams": 3, "sockets": 1},
}


@pytest.mark.parametrize("missing", [{}, {"stages": None, "queue": None, "caches": []}])
def test_the_terminal_shows_it_and_is_not_commanded(missing: dict[str, Any]):
    console = Console(width=120)
    with console.capture() as capture:
        console.print(shown(SEEN | missing))
    text = capture.get()
    assert "\x1b[2J" not in text
    assert "310.5 ms p50, 450 ms p95" in text
    assert ("can not be asked" in text) == bool(missing)
    assert ("one of 2" in text) == (not missing)


def test_the_command_says_what_it_is_refused():
    done = CliRunner().invoke(app, ["top", "--once", "--url", "http://127.0.0.1:9", "--key", "hr_x"])
    assert done.exit_code == 1
