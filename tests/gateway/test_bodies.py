"""Bodies as they are read: what is no JSON, or too much of it, is refused soon, and no byte sequence breaks anything."""

import asyncio
import contextlib
import gzip
import itertools
import json
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from deployments.core.config import Settings
from deployments.gateway.bodies import MAX_VALUES, parse
from deployments.gateway.middleware import MAX_HEADER_BYTES
from tests.fakes import Desk, database
from tests.house import House

MIB = 1 << 20
JSON = {"content-type": "application/json"}


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with database(tmp_path) as store:
        yield Desk(store, Settings(data_dir=tmp_path))


@pytest.mark.parametrize(
    "text",
    [
        '{"a": [1, -2.5e3, true, false, null, "\\u00e9\\ud83d\\ude00"]}',
        '"lone half \\ud800"',
        json.dumps('{[,\\"' * 3 * MAX_VALUES),
        json.dumps({"a,": ["{", "\\", '"', ",,"] * 100}),
        json.dumps([0] * (MAX_VALUES - 10)),
        " \n{}\r\t",
    ],
)
def test_json_is_read_as_python_reads_it(text: str):
    assert parse(text.encode()) == json.loads(text)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"[" * 100_000 + b"]" * 100_000, "values"),
        (b"[" * 20_000 + b"]" * 20_000, "deep"),
        (b'{"a":' * 20_000 + b"1" + b"}" * 20_000, "deep"),
        (b"{" + b",".join(b'"%d":1' % n for n in range(100_000)) + b"}", "values"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b'[{"b": {"a": 1, "\\u0061": 2}}]', "twice"),
        (b"9" * 10_000, "number"),
        (b'{"a": NaN}', "NaN"),
        (b"[Infinity]", "Infinity"),
        (b"-Infinity", "Infinity"),
        (b'"\xff"', "UTF-8"),
        (b'"\xc0\xaf"', "UTF-8"),
        (b'"\xed\xa0\x80"', "UTF-8"),
        (b'"\xf4\x90\x80\x80"', "UTF-8"),
        (b"\xef\xbb\xbf{}", "BOM"),
        ('{"a": 1}'.encode("utf-16"), "UTF-8"),
        (b'"\x00"', "control"),
        (b"", "Expecting"),
        (b"{'a': 1}", "Expecting"),
        (b"[1,]", "Expecting"),
    ],
)
def test_what_is_no_json_is_refused_with_its_reason(body: bytes, why: str):
    with pytest.raises(json.JSONDecodeError, match=why):
        parse(body)


async def test_the_reason_reaches_the_caller(desk: Desk) -> None:
    async with desk.http(await desk.key("acme")) as http:
        response = await http.post(
            "/v1/responses", content=b'{"model":"headrace","model":"x"}', headers={"content-type": "application/json"}
        )
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "invalid_json"
    assert "twice" in response.json()["error"]["message"]


async def test_nothing_of_a_strangers_body_is_read(desk: Desk) -> None:
    read: list[bytes] = []

    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b"{", b"no json"):
            read.append(piece)
            yield piece

    for key, status, pulled in (("", 401, 0), ("hr_wrong", 401, 0), (await desk.key("acme"), 400, 2)):
        async with desk.http(key) as http:
            for path in ("/v1/chat/completions", "/v1/responses", "/v1/conversations", "/v1/embeddings", "/v1/vector_stores"):
                read.clear()
                response = await http.post(path, content=pieces(), headers=JSON)
                assert (response.status_code, len(read)) == (status, pulled), path


BYTES = (
    b"\xff",
    b"\xc0\xaf",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\x80",
    b"\xc3",
    b"\xef\xbb\xbf",
    b"\x00",
    b"\xfe\xff",
    b"\x1b[2J",
    b"\xe2\x80\xa8",
)
ESCAPES = (b"\\ud800", b"\\udc00\\ud800", b"\\u0000", b"\\ufeff", b"\\ud83d", b"\\uffff", b"\\u202e", b"\\u0080")
TEMPLATES: dict[str, bytes] = {
    "/v1/chat/completions": b'{"model":"@","messages":[{"role":"user@","content":"@","name":"@"}],"user":"@","stop":["@"],"@":"@"}',
    "/v1/chat/completions#tools": b'{"model":"x","messages":[{"role":"user","content":[{"type":"text","text":"@"}]}],'
    b'"tools":[{"type":"function","function":{"name":"f","description":"@","parameters":{"@":"@"}}}],"metadata":{"@":"@"}}',
    "/v1/completions": b'{"model":"x","prompt":["@"],"suffix":"@","user":"@"}',
    "/v1/responses/input_tokens": b'{"model":"headrace-direct","input":"@","instructions":"@","metadata":{"@":"@"},"user":"@"}',
    "/v1/responses": b'{"model":"headrace","input":[{"role":"user","content":"@"},{"type":"item_reference","id":"no@"}],'
    b'"previous_response_id":"@"}',
    "/v1/conversations": b'{"metadata":{"@":"@"},"items":[{"role":"user","content":[{"type":"input_text","text":"@"}]}]}',
    "/v1/embeddings": b'{"model":"headrace-embed","input":["@"],"encoding_format":"float@"}',
    "/v1/vector_stores": b'{"name":"@","metadata":{"@":"@"},"file_ids":["@"]}',
    "/v1/vector_stores/vs_1/files": b'{"file_id":"@","attributes":{"@":"@"}}',
}  # fmt: skip


async def test_no_sequence_of_bytes_is_an_error_of_ours(desk: Desk) -> None:
    chance, sent = random.Random(22), 0
    async with desk.http(await desk.key("acme")) as http:
        for (path, template), odd in itertools.product(TEMPLATES.items(), BYTES + ESCAPES):
            holes = template.count(b"@")
            for hole in range(12):
                parts = template.split(b"@")
                filled = [
                    chance.choice((b"", b"a", odd)) if place != hole % holes else odd * chance.choice((1, 3)) for place in range(holes)
                ]
                body = b"".join(part + fill for part, fill in zip(parts, [*filled, b""], strict=True))
                response = await http.post(path.partition("#")[0], content=body, headers=JSON)
                assert response.status_code < 500, (path, body)
                response.content.decode()
                sent += 1
    assert sent >= 2000


async def test_no_sequence_of_bytes_in_a_url_is_an_error_of_ours(desk: Desk) -> None:
    odd = "%ff %c0%af %ed%a0%80 %00 %ef%bb%bf %f4%90%80%80 %e2%80%a8 %1b%5b2J %0d%0a % %zz".split()
    paths = (
        "/v1/files/{}",
        "/v1/models/{}",
        "/v1/responses/{}",
        "/v1/conversations/{}/items?after={}",
        "/v1/vector_stores?after={}",
        "/files/{}",
        "/{}",
    )
    async with desk.http(await desk.key("acme")) as http:
        for path, one in itertools.product(paths, odd):
            response = await http.get(path.format(one, one))
            assert response.status_code < 500, (path, one)
            response.content.decode()


async def head(house: House, lines: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection on which the head of a request with a body has been sent."""
    reader, writer = await asyncio.open_connection(*house.url.removeprefix("http://").split(":"))
    path = "POST /v1/chat/completions HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\n"
    writer.write(f"{path}authorization: Bearer {house.key}\r\n{lines}\r\n".encode())
    return reader, writer


async def test_a_body_without_end_is_cut_while_it_is_read(house: House) -> None:
    before = psutil.Process().memory_info().rss
    reader, writer = await head(house, "transfer-encoding: chunked\r\n")
    chunk, sent = b"4e21\r\n" + b"x" * 20_001 + b"\r\n", 20_001
    writer.write(chunk)
    status = await asyncio.wait_for(reader.readline(), 10)
    with contextlib.suppress(ConnectionError):
        while sent < 1 << 30:
            writer.write(chunk)
            await asyncio.wait_for(writer.drain(), 10)
            sent += 20_001
    writer.close()
    await asyncio.gather(writer.wait_closed(), return_exceptions=True)
    assert b" 413 " in status
    assert sent < 16 * MIB  # what the kernel's buffers on both sides take in
    assert psutil.Process().memory_info().rss - before < 32 * MIB


async def test_a_length_over_the_bound_is_refused_before_a_byte_of_it(house: House) -> None:
    for length in ("20001", "1073741824", "9" * 30):
        reader, writer = await head(house, f"content-length: {length}\r\n")
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        assert b" 413 " in answer.split(b"\r\n")[0] or b" 400 " in answer.split(b"\r\n")[0], answer[:200]


async def test_a_length_that_lies_begins_no_second_request(house: House) -> None:
    reader, writer = await head(house, "content-length: 5\r\n")
    writer.write(b'{"a":1}GET /health HTTP/1.1\r\nhost: t\r\n\r\n')
    answer = await asyncio.wait_for(reader.read(), 8)
    writer.close()
    assert b" 400 " in answer.split(b"\r\n")[0]
    assert b" 200 " not in answer
    assert not house.flow.turns


async def test_a_packed_body_is_not_unpacked(house: House) -> None:
    packed = gzip.compress(b" " * 16 * MIB, 9)
    before = psutil.Process().memory_info().rss
    async with house.http() as http:
        headers = {"content-type": "application/json", "content-encoding": "gzip"}
        response = await http.post("/v1/chat/completions", content=packed[:19_000], headers=headers)
    assert response.status_code == 400
    assert psutil.Process().memory_info().rss - before < 8 * MIB


async def test_headers_over_their_bound_are_refused(house: House) -> None:
    async with house.http() as http:
        assert (await http.get("/v1/models", headers={"x-long": "x" * MAX_HEADER_BYTES})).status_code == 400
        assert (await http.get("/v1/models", headers={f"x-{n}": "x" * 90 for n in range(200)})).status_code == 400
        assert (await http.get("/v1/models", headers={"x-long": "x" * 8000})).status_code == 200


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value}
    return value


HI = [{"role": "user", "content": "Hi"}]
CHAT: dict[str, Any] = {"model": "headrace-direct", "messages": HI}
ASK: dict[str, Any] = {"model": "headrace-direct", "input": "Hi"}


def said(content: object) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


def tool(**parameters: Any) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": "f", "parameters": parameters}}]


def flat(**parameters: Any) -> list[dict[str, Any]]:
    return [{"type": "function", "name": "f", "parameters": parameters}]


BOUNDS: list[tuple[str, dict[str, Any], str]] = [
    (
        "/v1/chat/completions",
        CHAT | {"messages": said([{"type": "text", "text": "x"}] * 257)},
        "messages[0].content",
    ),
    ("/v1/chat/completions", CHAT | {"messages": HI * 2049}, "messages"),
    ("/v1/chat/completions", CHAT | {"messages": said("x" * 200_000)}, "messages"),
    (
        "/v1/chat/completions",
        CHAT | {"messages": said([{"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/x.png"}}])},
        "messages[0]",
    ),
    ("/v1/chat/completions", CHAT | {"tools": tool(a=nested(70))}, "tools[0].function.parameters"),
    ("/v1/chat/completions", CHAT | {"tools": tool(pattern="(a+)+" * 60)}, "tools[0].function.parameters"),
    ("/v1/chat/completions", CHAT | {"tools": tool(patternProperties={"x" * 257: {}})}, "tools[0].function.parameters"),
    ("/v1/chat/completions", CHAT | {"tools": tool(a={"$ref": "http://127.0.0.1:1/schema.json"})}, "tools[0].function.parameters"),
    ("/v1/chat/completions", CHAT | {"tools": tool(a="x" * 70_000)}, "tools[0].function.parameters"),
    (
        "/v1/chat/completions",
        CHAT | {"tools": [{"type": "function", "function": {"name": "f", "description": "x" * 4097}}]},
        "tools[0].function.description",
    ),
    ("/v1/chat/completions", CHAT | {"stop": ["x" * 257]}, "stop"),
    ("/v1/chat/completions", CHAT | {"stop": ["x"] * 5}, "stop"),
    ("/v1/chat/completions", CHAT | {"metadata": {f"k{n}": "v" for n in range(17)}}, "metadata"),
    ("/v1/chat/completions", CHAT | {"metadata": {"k": "v" * 513}}, "metadata.k"),
    ("/v1/chat/completions", CHAT | {"logit_bias": {"50256": -100}}, "logit_bias"),
    ("/v1/completions", {"model": "headrace", "prompt": "Hi", "best_of": 20}, "best_of"),
    ("/v1/completions", {"model": "headrace", "prompt": ["x"] * 2049}, "prompt"),
    ("/v1/responses", ASK | {"tools": flat(a=nested(70))}, "tools[0].parameters"),
    ("/v1/responses", ASK | {"tools": flat(pattern="x" * 257)}, "tools[0].parameters"),
    ("/v1/responses", ASK | {"input": said([{"type": "input_text", "text": "x"}] * 257)}, "input[0].content"),
    (
        "/v1/responses",
        ASK | {"input": said([{"type": "input_image", "image_url": "x"}])},
        "input[0].content[0].image_url",
    ),
    ("/v1/responses", ASK | {"input": [{"type": "function_call", "call_id": "x" * 257, "name": "f", "arguments": ""}]}, "input[0].call_id"),
    ("/v1/responses", ASK | {"input": [{"type": "item_reference", "id": ""}]}, "input[0].id"),
    ("/v1/responses", ASK | {"max_tool_calls": 1 << 21}, "max_tool_calls"),
    ("/v1/responses", ASK | {"previous_response_id": "x" * 65}, "previous_response_id"),
    ("/v1/conversations", {"items": [{"type": "item_reference", "id": "msg_1"}]}, "items[0].type"),
    ("/v1/conversations", {"metadata": {"k" * 65: "v"}}, "metadata"),
    ("/v1/embeddings", {"model": "headrace-embed", "input": ["x"] * 2049}, "input"),
    ("/v1/embeddings", {"model": "headrace-embed", "input": "x" * 32_769}, "input"),
]


@pytest.mark.parametrize(("path", "body", "param"), BOUNDS)
async def test_a_field_over_its_bound_is_named(desk: Desk, path: str, body: dict[str, Any], param: str) -> None:
    async with desk.http(await desk.key("acme")) as http:
        response = await http.post(path, json=body)
    assert response.status_code == 400
    assert str(response.json()["error"]["param"]).startswith(param)


async def test_more_unknown_fields_than_anybody_sends_are_refused(desk: Desk) -> None:
    async with desk.http(await desk.key("acme")) as http:
        for path, body in (("/v1/chat/completions", CHAT), ("/v1/responses", ASK)):
            started = time.thread_time()
            response = await http.post(path, json=body | {f"x{n}": n for n in range(65)})
            assert response.status_code == 400
            assert time.thread_time() - started < 1
