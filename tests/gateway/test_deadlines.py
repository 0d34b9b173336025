"""How long an answer may take: what the caller gives it, never more than configured."""

from typing import Any

import pytest

from tests.house import House

ASKED: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}]},
    "/v1/completions": {"prompt": "Hi"},
    "/v1/responses": {"input": "Hi"},
}


@pytest.mark.parametrize(
    ("headers", "deadline_s"),
    [
        ({}, 300.0),
        ({"x-headrace-deadline-ms": "1500"}, 1.5),
        ({"x-headrace-deadline-ms": "999999999"}, 300.0),
        ({"x-stainless-read-timeout": "20"}, 20.0),
        ({"x-stainless-read-timeout": "600"}, 300.0),
        ({"x-stainless-read-timeout": "20", "x-headrace-deadline-ms": "30000"}, 20.0),
        ({"x-stainless-read-timeout": "0"}, 300.0),
        ({"x-stainless-read-timeout": "NOT_GIVEN"}, 300.0),
        ({"x-stainless-read-timeout": "\u0661".encode().decode("latin-1")}, 300.0),
    ],
)
async def test_a_deadline_becomes_the_turns(house: House, headers: dict[str, str], deadline_s: float) -> None:
    async with house.http() as http:
        for path, body in ASKED.items():
            sent = {name: value.encode("latin-1") for name, value in headers.items()}
            assert (await http.post(path, json={"model": "headrace"} | body, headers=sent)).status_code == 200
    assert [turn.deadline_s for turn in house.flow.turns] == [deadline_s] * len(ASKED)


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "soon", "", "9" * 30, "1000000000", "1e3", "\u0661".encode().decode("latin-1")])
async def test_a_deadline_that_is_none_is_refused_by_name(house: House, value: str) -> None:
    async with house.http() as http:
        for path, body in ASKED.items():
            headers = {"x-headrace-deadline-ms": value.encode("latin-1")}
            response = await http.post(path, json={"model": "headrace"} | body, headers=headers)
            assert response.status_code == 400
            assert response.json()["error"]["param"] == "x-headrace-deadline-ms"
    assert not house.flow.turns
