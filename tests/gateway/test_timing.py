"""What a gateway measures of the answers it gives, and what it shows of that to who asks."""

import json
import math
from typing import Any

import httpx2
import pytest

from deployments.core.errors import BackendFailed
from deployments.core.gate import Load
from tests.fakes import until
from tests.house import House
from tests.telemetry import Carrier

CHAT = "/v1/chat/completions"
SHOWN = {"x-headrace-timing": "1"}


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "headrace", "messages": [{"role": "user", "content": "Hi"}]} | fields


def requests(carrier: Carrier, route: str, status: str, method: str = "POST") -> float:
    return carrier.total("headrace_requests", route, method, status)


async def post(house: House, path: str = CHAT, headers: dict[str, str] | None = None, **fields: Any) -> httpx2.Response:
    async with house.http() as http:
        return await http.post(path, json=body(**fields), headers=headers or {})


async def test_a_streamed_answer_is_timed(house: House, carrier: Carrier) -> None:
    house.flow.pause_s = 0.02
    await post(house, stream=True)
    await until(lambda: carrier.total("gen_ai_server_request_duration_seconds", "chat", "headrace", "") > 0)
    (first,) = carrier.values["gen_ai_server_time_to_first_token_seconds"]["chat", "headrace"]
    (whole,) = carrier.values["gen_ai_server_request_duration_seconds"]["chat", "headrace", ""]
    assert 0 < first < whole
    assert requests(carrier, CHAT, "200") == 1
    assert carrier.total("headrace_admissions", "admitted") == 1
    assert carrier.total("headrace_stream_aborts") == 0


async def test_who_asks_is_shown_where_the_time_went(house: House) -> None:
    whole = await post(house, headers=SHOWN)
    assert whole.headers["server-timing"].startswith("admit;dur=")
    stream = await post(house, headers=SHOWN, stream=True)
    comment = next(block for block in stream.text.split("\n\n") if block.startswith(": headrace-timing "))
    stages = json.loads(comment.removeprefix(": headrace-timing "))
    assert [stage["stage"] for stage in stages][:2] == ["admit", "first_token"]
    assert all(stage["ms"] >= 0 and stage["at_ms"] >= 0 for stage in stages)
    assert stream.text.index(comment) < stream.text.index("[DONE]")


async def test_nobody_else_is(house: House) -> None:
    answers = [await post(house, stream=stream) for stream in (False, True)]
    assert all("server-timing" not in answer.headers and "headrace-timing" not in answer.text for answer in answers)


async def test_openais_client_passes_over_it(house: House) -> None:
    async with house.openai() as client:
        stream = await client.chat.completions.create(**body(stream=True), extra_headers=SHOWN)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "Hello world."
        response = await client.responses.create(model="headrace", input="Hi", extra_headers=SHOWN)
        assert response.output_text == "Hello world."


async def test_the_header_is_0_or_1(house: House) -> None:
    refused = await post(house, headers={"x-headrace-timing": "yes"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "x-headrace-timing")


async def test_what_is_refused_is_counted_by_its_status(house: House, carrier: Carrier) -> None:
    await post(house, model="gpt-9")
    async with house.http(None) as http:
        await http.post(CHAT, json=body())
        await http.get("/nowhere/canary")
    assert requests(carrier, CHAT, "404") == requests(carrier, CHAT, "401") == 1
    assert requests(carrier, "other", "404", "other") == 1


async def test_a_failed_answer_says_so(house: House, carrier: Carrier) -> None:
    house.flow.error = BackendFailed("broken")
    house.flow.pieces = ["Hello"]
    await post(house, stream=True)
    await until(lambda: carrier.total("headrace_stream_aborts", "failed") == 1)


async def test_a_client_that_leaves_is_an_abort_of_its_own(house: House, carrier: Carrier) -> None:
    house.flow.held = True
    async with house.http() as http, http.stream("POST", CHAT, json=body(stream=True)) as response:
        pieces = response.aiter_bytes()
        await anext(pieces)
    await until(lambda: carrier.total("headrace_stream_aborts", "client") == 1)


async def test_repeated_requests_are_counted(house: House, carrier: Carrier) -> None:
    for count in ("0", "2"):
        await post(house, headers={"x-stainless-retry-count": count})
    assert carrier.total("headrace_client_retries") == 1


async def test_a_reader_that_comes_back_is_counted(house: House, carrier: Carrier) -> None:
    async with house.http() as http:
        made = await http.post("/v1/responses", json={"model": "headrace", "input": "Hi", "background": True})
        path = f"/v1/responses/{made.json()['id']}"
        await until(lambda: status(http, path), equals="completed")
        await http.get(path, params={"stream": "true", "starting_after": 1})
    assert carrier.total("headrace_stream_resumes") == 1
    assert carrier.total("headrace_stream_replayed_events") > 1
    assert requests(carrier, "/v1/responses/{response_id}", "200", "GET") >= 2


async def status(http: httpx2.AsyncClient, path: str) -> str:
    return (await http.get(path)).json()["status"]


async def test_what_is_open_now_is_told(house: House, carrier: Carrier) -> None:
    house.flow.held = True
    async with house.http() as http, http.stream("POST", CHAT, json=body(stream=True)) as response:
        pieces = response.aiter_bytes()
        await anext(pieces)
        await until(lambda: carrier.values["headrace_answers_open"].get((), [0])[-1] == 1)
        assert carrier.values["headrace_streams_open"][()][-1] == 1
        await until(lambda: carrier.values["headrace_pool_running"].get((), [0])[-1] == 1)
    await until(lambda: carrier.values["headrace_answers_open"][()][-1] == 0)


async def test_no_metric_tells_whose_it_is_or_what_was_said(house: House, carrier: Carrier) -> None:
    await post(house, stream=True, messages=[{"role": "user", "content": "the canary sings"}], user="canary")
    await post(house, "/v1/canary", model="canary")
    await until(lambda: carrier.total("gen_ai_server_request_duration_seconds") > 0)
    labels = {label for series in carrier.values.values() for labels in series for label in labels}
    assert labels
    assert not [label for label in labels if "canary" in label or "ours" in label or house.key[:12] in label]


async def test_an_idempotent_request_is_counted_by_its_route_too(house: House, carrier: Carrier) -> None:
    await post(house, headers={"idempotency-key": "one"})
    assert requests(carrier, CHAT, "200") == 1


async def test_what_nobody_expected_is_counted_as_a_500(house: House, carrier: Carrier, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*arguments: object, **fields: object) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(house.context.gate, "want", fail)
    assert (await post(house)).status_code == 500
    assert requests(carrier, CHAT, "500") == 1


async def test_several_answers_are_each_timed_by_themselves(house: House, carrier: Carrier) -> None:
    await post(house, stream=True, n=2)
    durations = carrier.values["gen_ai_server_request_duration_seconds"]
    await until(lambda: len(durations["chat", "headrace", ""]), equals=2)
    assert carrier.total("headrace_stream_aborts") == 0


async def test_what_can_not_be_seen_now_is_unknown_and_seen_again_later(
    house: House, carrier: Carrier, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, fails = house.context.gate.look, [RuntimeError("MASTERDOWN")]

    async def once() -> Load:
        if fails:
            raise fails.pop()
        return await look()

    monkeypatch.setattr(house.context.gate, "look", once)
    await until(lambda: any(map(math.isnan, carrier.values["headrace_pool_limit"][()])))
    await until(lambda: not math.isnan(carrier.values["headrace_pool_limit"][()][-1]))
