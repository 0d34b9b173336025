"""Frames that no client of ours sends: each is answered with an error of the caller's, and the socket stays."""

import asyncio
import json

from websockets.asyncio.client import connect

from tests.house import House

HALVES = (r'"\ud800"', r'"\udc00\ud800"')
ODD = (*HALVES, r'"\u0000"', r'"\uffff\ufeff"', r'"\u202e"', "7", "[]", "{}", '"' + "x" * 10_000 + '"')


def frame(**fields: str) -> str:
    """A frame of fields that are JSON already, or ought to be."""
    return "{" + ",".join(f'"{name}":{value}' for name, value in fields.items()) + "}"


def ask(**fields: str) -> str:
    return frame(**{"type": '"response.create"', "model": '"headrace"', "input": '"Hi"'} | fields)


def attach(**fields: str) -> str:
    return frame(type='"headrace:response.attach"', **fields)


DEEP = "[" * 5000 + "]" * 5000
PARTS = json.dumps([{"role": "user", "content": [{"type": "input_text", "text": "x"}] * 300}])
FRAMES = [
    *(ask(input=one) for one in ("NaN", "Infinity", "9" * 5000, DEEP, '{"a":1,"a":2}', "[" + "1," * 40_000 + "1]", "[{}]", "null", PARTS)),
    *(ask(**{name: one}) for name in ("input", "instructions", "user") for one in HALVES),
    *(frame(type=one) for one in (*ODD, "null", '"response.cancel"')),
    *(ask(stream_id=one) for one in (*ODD, '""', '"a b"')),
    *(attach(response_id=one) for one in (*ODD, '""', "null")),
    *(attach(response_id='"resp_x"', starting_after=one) for one in ("1e99", "9" * 400, '"1"', "-7")),
    *(ask(headrace=one) for one in ('{"on_disconnect":"x"}', "[]", '{"on_disconnect":{}}')),
    *("", " ", "{", "[]", "null", "1", '"x"', "{'a':1}", "\ufeff{}", "\x00", "\ufffd", "]" * 1000, "{" * 100_000, '{"a":' * 100_000),
]


async def test_an_odd_frame_is_the_callers_error(house: House) -> None:
    url = house.url.replace("http", "ws") + "/v1/responses"
    async with connect(url, additional_headers={"authorization": f"Bearer {house.key}"}, max_size=None, proxy=None) as socket:
        for one in FRAMES:
            await socket.send(one)
            event = json.loads(await asyncio.wait_for(socket.recv(), 5))
            assert event["type"] == "error", (one[:100], event)
            assert event["status"] < 500, (one[:100], event)
        await socket.send(b"\xff\xfe")
        assert json.loads(await socket.recv())["error"]["code"] == "invalid_json"
    assert not house.flow.turns
