"""Which pages may call us, and under which names we are called."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import ValidationError
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin

from deployments.core.config import Gateway, Settings
from tests.fakes import Desk, database
from tests.house import serving

OURS, FOREIGN = "https://app.example", "https://evil.example"
ASKS = {"access-control-request-method": "POST", "access-control-request-headers": "authorization, content-type"}


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with database(tmp_path) as store:
        yield Desk(store, Settings(data_dir=tmp_path, gateway=Gateway(origins=(OURS,), hosts=("headrace.test", "127.0.0.1:8000"))))


async def test_a_preflight_of_an_allowed_page_is_answered_without_credentials(desk: Desk) -> None:
    async with desk.http() as http:
        response = await http.options("/v1/chat/completions", headers=ASKS | {"origin": OURS})
    assert (response.status_code, response.content) == (204, b"")
    assert response.headers["access-control-allow-origin"] == OURS
    assert response.headers["access-control-allow-headers"] == "authorization, content-type"
    assert "POST" in response.headers["access-control-allow-methods"]
    assert "origin" in response.headers["vary"]
    assert "access-control-allow-credentials" not in response.headers


async def test_an_allowed_page_reads_answers_and_refusals_with_what_tells_when_to_try_again(desk: Desk) -> None:
    async with desk.http(await desk.key("acme")) as http:
        answers = [await http.get("/v1/models", headers={"origin": OURS}), await http.get("/v1/nothing", headers={"origin": OURS})]
    assert [answer.status_code for answer in answers] == [200, 404]
    for answer in answers:
        assert answer.headers["access-control-allow-origin"] == OURS
        exposed = answer.headers["access-control-expose-headers"]
        assert all(name in exposed for name in ("x-ratelimit-remaining-tokens", "retry-after-ms", "x-request-id"))


@pytest.mark.parametrize("origin", [FOREIGN, "null", "*", OURS + ".evil.example", OURS + ":444", OURS.upper(), "", f"{OURS}, {FOREIGN}"])
async def test_no_other_page_is_answered(desk: Desk, origin: str) -> None:
    async with desk.http(await desk.key("acme")) as http:
        answers = [
            await http.options("/v1/chat/completions", headers=ASKS | {"origin": origin}),
            await http.get("/v1/models", headers={"origin": origin}),
        ]
    assert not [name for answer in answers for name in answer.headers if name.startswith("access-control-")]
    assert answers[0].status_code == 404


@pytest.mark.parametrize("origin", ["*", "https://*.example", "app.example", "https://app.example/", "null"])
def test_an_origin_that_is_none_is_not_configured(origin: str):
    with pytest.raises(ValidationError):
        Gateway(origins=(origin,))


@pytest.mark.parametrize("host", ["headrace.test", "HEADRACE.TEST", "headrace.test:8000", "127.0.0.1:8000"])
async def test_our_own_names_are_served(desk: Desk, host: str) -> None:
    async with desk.http(await desk.key("acme")) as http:
        assert (await http.get("/v1/models", headers={"host": host})).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "headrace.test.evil.example", "127.0.0.1", "127.0.0.1:81", "", "x@headrace.test"])
async def test_no_other_name_is_served_but_to_those_who_ask_whether_we_live(desk: Desk, host: str) -> None:
    async with desk.http(await desk.key("acme")) as http:
        refused = await http.get("/v1/models", headers={"host": host})
        alive = await http.get("/health", headers={"host": host})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "host")
    assert alive.status_code == 200


async def opened(desk: Desk, url: str, origin: str) -> int:
    """The status that a page's handshake is answered with."""
    headers = {"authorization": f"Bearer {await desk.key('acme')}"}
    try:
        async with connect(f"{url}/v1/responses", origin=Origin(origin), additional_headers=headers, proxy=None):
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


async def test_a_page_that_may_call_us_may_open_a_socket(tmp_path: Path, desk: Desk) -> None:
    open_desk = Desk(desk.store, Settings(data_dir=tmp_path, gateway=Gateway(origins=(OURS,))))
    async with serving(open_desk.app.context) as url:
        assert [await opened(open_desk, url.replace("http", "ws"), origin) for origin in (OURS, FOREIGN)] == [101, 403]


async def test_a_socket_to_another_name_is_not_opened(desk: Desk) -> None:
    async with serving(desk.app.context) as url:
        assert await opened(desk, url.replace("http", "ws"), OURS) == 400


async def test_where_nothing_is_configured_nothing_stands_in_the_way(tmp_path: Path) -> None:
    async with database(tmp_path) as store:
        bare = Desk(store, Settings(data_dir=tmp_path)).app
        assert [one.cls.__name__ for one in bare.user_middleware] == ["Sockets", "Measured", "BodyBound", "Idempotency", "Receipt"]
