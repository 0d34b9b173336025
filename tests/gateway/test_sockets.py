"""The Responses API over a WebSocket."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode

from deployments.core.keys import Keys
from deployments.gateway import socket as sockets
from deployments.gateway.frames import MAX_FRAGMENTS
from deployments.gateway.socket import BURST_S, Pace
from tests.fakes import SCOPES, until
from tests.house import House

LAST = ("response.completed", "response.incomplete", "response.failed", "error")


@contextlib.asynccontextmanager
async def socket(house: House, key: str = "", **headers: str) -> AsyncIterator[ClientConnection]:
    url = house.url.replace("http", "ws") + "/v1/responses"
    sent = {"authorization": f"Bearer {key or house.key}"} | headers
    async with connect(url, additional_headers=sent, max_size=None, compression=None, proxy=None) as connection:
        yield connection


async def ask(connection: ClientConnection, **fields: Any) -> None:
    await connection.send(json.dumps({"type": "response.create", "model": "headrace", "input": "Hi"} | fields))


async def messages(connection: ClientConnection) -> AsyncIterator[str | bytes]:
    """What comes until it is closed, in whatever way."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            yield await connection.recv()


async def until_end(connection: ClientConnection, lane: str | None = None) -> list[dict[str, Any]]:
    """The events of one lane to its last; those of other lanes are dropped."""
    seen: list[dict[str, Any]] = []
    async with asyncio.timeout(10):
        while not seen or seen[-1]["type"] not in LAST:
            event = json.loads(await connection.recv())
            if event.get("stream_id") == lane:
                seen.append(event)
    return seen


async def test_the_unmodified_client_talks_over_a_socket(house: House) -> None:
    async with house.openai().responses.connect() as connection:
        await connection.response.create(model="headrace", input="Hi")
        async for event in connection:
            if event.type == "response.completed":
                assert event.response.output_text == "Hello world."
                break


async def test_the_events_are_those_of_the_stream(house: House) -> None:
    async with socket(house) as connection:
        await ask(connection, stream=True)
        over_socket = await until_end(connection)
    async with house.http() as http:
        body = (await http.get(f"/v1/responses/{over_socket[0]['response']['id']}?stream=true")).text
    assert [json.loads(line[6:]) for line in body.split("\n") if line.startswith("data: {")] == over_socket


async def test_lanes_answer_side_by_side(house: House) -> None:
    house.flow.pieces, house.flow.pause_s = ["one ", "two ", "three"], 0.05
    async with socket(house) as connection:
        for lane in ("a", "b"):
            await ask(connection, stream_id=lane)
        seen: list[dict[str, Any]] = []
        while sum(event["type"] == "response.completed" for event in seen) < 2:
            seen.append(json.loads(await connection.recv()))
    lanes = [event["stream_id"] for event in seen]
    assert lanes != sorted(lanes)
    for lane in ("a", "b"):
        assert [event["sequence_number"] for event in seen if event["stream_id"] == lane] == list(range(lanes.count(lane)))


async def test_a_second_question_on_a_busy_lane_is_refused_and_the_first_goes_on(house: House) -> None:
    house.flow.pieces, house.flow.pause_s = ["one ", "two"], 0.1
    async with socket(house) as connection:
        await ask(connection)
        assert json.loads(await connection.recv())["type"] == "response.created"
        await ask(connection)
        assert (await until_end(connection))[-1]["error"]["code"] == "stream_busy"
        assert (await until_end(connection))[-1]["type"] == "response.completed"
        await ask(connection)
        assert (await until_end(connection))[-1]["type"] == "response.completed"


async def test_who_asks_again_at_once_is_answered_while_the_first_answer_is_still_being_settled(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    settling = sockets.answering

    @contextlib.asynccontextmanager
    async def slowly(*args: Any) -> AsyncIterator[Any]:
        async with settling(*args) as answer:
            yield answer
        await asyncio.sleep(0.2)

    monkeypatch.setattr(sockets, "answering", slowly)
    async with socket(house) as connection:
        await ask(connection)
        first = (await until_end(connection))[-1]
        await ask(connection, previous_response_id=first["response"]["id"])
        assert (await until_end(connection))[-1]["type"] == "response.completed"


CREATE = {"type": "response.create", "model": "headrace", "input": "x"}


@pytest.mark.parametrize(
    ("frame", "code", "param"),
    [
        ("not json", "invalid_json", None),
        ("[1]", "invalid_value", None),
        (json.dumps({"type": "session.update"}), "unsupported_value", "type"),
        (json.dumps({"type": "response.create", "input": "x"}), "missing_required_parameter", "model"),
        (json.dumps(CREATE | {"model": "gpt"}), "model_not_found", "model"),
        (json.dumps(CREATE | {"stream_id": "a b"}), "invalid_value", "stream_id"),
        (json.dumps(CREATE | {"background": True}), "unsupported_parameter", "background"),
        (json.dumps({"type": "headrace:response.attach"}), "missing_required_parameter", "response_id"),
        (json.dumps({"type": "headrace:response.attach", "response_id": "resp_none"}), "not_found", None),
        (b"\x00\x01", "invalid_json", None),
    ],
)
async def test_a_bad_frame_is_answered_and_the_socket_stays_open(house: House, frame: str | bytes, code: str, param: str | None) -> None:
    lane = json.loads(frame).get("stream_id") if isinstance(frame, str) and frame.startswith("{") else None
    async with socket(house) as connection:
        await connection.send(frame)
        (error,) = await until_end(connection, lane)
        assert (error["type"], error["error"]["code"], error["error"]["param"]) == ("error", code, param)
        assert error["status"] >= 400
        await ask(connection)
        assert (await until_end(connection))[-1]["type"] == "response.completed"


async def test_a_frame_over_its_bound_closes_the_socket(house: House) -> None:
    async with socket(house) as connection:
        await connection.send("x" * ((1 << 20) + 1))
        with pytest.raises(ConnectionClosed) as closed:
            await connection.recv()
    assert closed.value.rcvd
    assert closed.value.rcvd.code == 1009


async def test_no_key_a_wrong_key_and_a_foreign_page_are_turned_away(house: House) -> None:
    scopes = [scope for scope in SCOPES if scope != "chat"]
    reader = (await Keys(house.context.store, b"pepper").mint("ours", scopes)).secret
    refusals = [("nonsense", {}, 401), (reader, {}, 403), (house.key, {"origin": "https://evil.example"}, 403)]
    for key, headers, status in refusals:
        with pytest.raises(InvalidStatus) as refused:
            async with socket(house, key, **headers):
                pass
        assert refused.value.response.status_code == status
        assert b'"error"' in (refused.value.response.body or b"")
    async with socket(house, origin=house.url) as connection:
        await ask(connection)
        assert (await until_end(connection))[-1]["type"] == "response.completed"


async def test_closing_the_socket_ends_what_runs_on_it(house: House) -> None:
    house.flow.pieces, house.flow.pause_s = ["w "] * 500, 0.01
    async with socket(house) as connection:
        await ask(connection, stream_id="a")
        await ask(connection, stream_id="b")
        await until(lambda: len(house.flow.turns), equals=2)
    await until(lambda: house.flow.ended_early, equals=2)


async def test_what_outlives_its_socket_is_attached_to_from_another(house: House) -> None:
    house.flow.pieces, house.flow.pause_s = [f"w{n} " for n in range(20)], 0.02
    async with socket(house) as connection:
        await ask(connection, headrace={"on_disconnect": "continue"})
        first = [json.loads(await connection.recv()) for _ in range(6)]
    name = first[0]["response"]["id"]
    async with socket(house) as connection:
        frame = {"type": "headrace:response.attach", "response_id": name, "starting_after": 5, "stream_id": "again"}
        await connection.send(json.dumps(frame))
        rest = await until_end(connection, "again")
    for event in rest:
        del event["stream_id"]
    assert [event["sequence_number"] for event in first + rest] == list(range(len(first) + len(rest)))
    assert rest[-1]["response"]["output"][0]["content"][0]["text"] == "".join(f"w{n} " for n in range(20))
    assert house.flow.ended_early == 0


async def test_a_prewarmed_input_is_gone_on_from(house: House) -> None:
    async with socket(house) as connection:
        await ask(connection, input="What turns the wheel?", generate=False)
        warm = await until_end(connection)
        assert (warm[-1]["type"], warm[-1]["response"]["output"], house.flow.turns) == ("response.completed", [], [])
        await ask(connection, input=[], previous_response_id=warm[-1]["response"]["id"])
        assert (await until_end(connection))[-1]["type"] == "response.completed"
    assert [message.content for message in house.flow.turns[0].messages] == ["What turns the wheel?"]


async def test_the_latest_response_of_a_socket_is_gone_on_from_though_it_is_not_stored(house: House) -> None:
    async with socket(house) as connection:
        await ask(connection, input="one", store=False)
        first = (await until_end(connection))[-1]["response"]["id"]
        await ask(connection, input="two", store=False, previous_response_id=first)
        await until_end(connection)
        await ask(connection, input="three", previous_response_id=first)
        assert (await until_end(connection))[-1]["error"]["code"] == "previous_response_not_found"
    assert [message.content for message in house.flow.turns[1].messages] == ["one", "Hello world.", "two"]


async def test_a_socket_over_the_bound_is_closed_to_be_tried_again(house: House) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(house.context.settings.gateway.max_sockets):
            await stack.enter_async_context(socket(house))
        async with socket(house) as connection:
            with pytest.raises(ConnectionClosed) as closed:
                await connection.recv()
        assert closed.value.rcvd
        assert closed.value.rcvd.code == 1013
    await until(lambda: house.context.sockets, equals=set())


async def test_a_socket_that_is_too_old_is_closed_with_a_reason(house: House) -> None:
    async with socket(house) as connection:
        async with asyncio.timeout(10):
            error = json.loads(await connection.recv())
            with pytest.raises(ConnectionClosed) as closed:
                await connection.recv()
    assert error["error"]["code"] == "websocket_connection_limit_reached"
    assert closed.value.rcvd
    assert closed.value.rcvd.code == 1001


async def test_answers_at_once_are_bounded(house: House) -> None:
    house.flow.pieces, house.flow.pause_s = ["w "] * 100, 0.05
    async with socket(house) as connection:
        for lane in "abc":
            await ask(connection, stream_id=lane)
        error = (await until_end(connection, "c"))[-1]
    assert error["error"]["code"] == "websocket_stream_limit_reached"


async def test_lanes_are_bounded(house: House) -> None:
    async with socket(house) as connection:
        for number in range(32):
            await ask(connection, stream_id=f"lane{number}")
            assert (await until_end(connection, f"lane{number}"))[-1]["type"] == "response.completed"
        await ask(connection, stream_id="one more")
        await ask(connection, stream_id="another")
        assert (await until_end(connection, "another"))[-1]["error"]["code"] == "websocket_stream_limit_reached"


async def test_frames_that_come_too_fast_close_the_socket(house: House) -> None:
    allowed = int(house.context.settings.gateway.socket_frames_per_s * BURST_S)
    async with socket(house) as connection:
        for _ in range(allowed + 20):
            await connection.send("{}")
        answers = [json.loads(text)["type"] async for text in messages(connection)]
    assert answers == ["error"] * allowed
    assert connection.close_code == 1008


def test_a_steady_client_is_never_too_fast() -> None:
    pace = Pace(per_s=10)
    assert all(pace.feed(number / 10) for number in range(1000))
    assert [pace.feed(100.0) for _ in range(51)].count(True) == 50
    assert not pace.feed(100.05)
    assert pace.feed(101.0)


async def test_pongs_that_nobody_reads_end_the_connection(house: House) -> None:
    pings = Frame(Opcode.PING, b"x" * 125).serialize(mask=True) * 500
    async with socket(house) as connection:
        connection.transport.pause_reading()
        async with asyncio.timeout(30):
            while not connection.transport.is_closing():
                connection.transport.write(pings)
                await asyncio.sleep(0.001)
    assert connection.close_code == 1006


async def test_a_message_in_too_many_fragments_closes_the_socket(house: House) -> None:
    async with socket(house) as connection:
        connection.transport.write(Frame(Opcode.TEXT, b"{", fin=False).serialize(mask=True))
        connection.transport.write(Frame(Opcode.CONT, b"", fin=False).serialize(mask=True) * (MAX_FRAGMENTS + 1))
        await connection.wait_closed()
    assert connection.close_code == 1008


async def test_compression_is_not_agreed_on(house: House) -> None:
    url, headers = house.url.replace("http", "ws") + "/v1/responses", {"authorization": f"Bearer {house.key}"}
    async with connect(url, additional_headers=headers, proxy=None) as connection:
        assert connection.response
        assert "sec-websocket-extensions" not in connection.response.headers
