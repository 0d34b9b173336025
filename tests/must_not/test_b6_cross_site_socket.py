"""B6: a page of another site opens no WebSocket, whatever it calls itself, and a key in the URL is none."""

import json

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.house import House

FOREIGN = [
    "https://evil.example",
    "http://127.0.0.1.evil.example",
    "http://evil.example:8000",
    "null",
    "file://",
    "http://localhost@evil.example",
    "http://127.0.0.1:1",
    "",
]


@pytest.mark.parametrize("origin", FOREIGN)
async def test_a_foreign_page_is_turned_away(house: House, origin: str) -> None:
    headers = {"authorization": f"Bearer {house.key}", "origin": origin}
    with pytest.raises(InvalidStatus) as refused:
        async with connect(house.url.replace("http", "ws") + "/v1/responses", additional_headers=headers, proxy=None):
            pass
    assert refused.value.response.status_code == 403
    assert json.loads(refused.value.response.body or b"")["error"]["code"] == "insufficient_scope"


@pytest.mark.parametrize("query", ["?api_key={}", "?token={}", "?authorization=Bearer%20{}", "?key={}"])
async def test_a_key_in_the_url_opens_nothing(house: House, query: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with connect(house.url.replace("http", "ws") + "/v1/responses" + query.format(house.key), proxy=None):
            pass
    assert refused.value.response.status_code == 401
