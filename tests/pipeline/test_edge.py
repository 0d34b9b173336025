import asyncio
import json
from collections.abc import AsyncIterator

import psutil
import pytest

from pipeline import edge
from tests.pipeline.proxied import Stack, reply, stack


@pytest.fixture
async def edged() -> AsyncIterator[Stack]:
    async with stack() as made:
        yield made


@pytest.mark.parametrize("name", [*edge.STEERING, *edge.UNWANTED, "X-Serve-Router-Target", "X_Session-ID", "serve_multiplexed_model_id"])
async def test_a_header_that_steers_serve_does_not_pass(edged: Stack, name: str):
    status, _, body = await edged.get("/v1/models", f"{name}: 1\r\n{name.upper()}: 2\r\n")
    assert status == 200
    assert name.lower() not in json.loads(body)["headers"]


async def test_the_client_cannot_choose_its_address(edged: Stack):
    _, _, body = await edged.get("/", "X-Forwarded-For: 10.1.2.3\r\n")
    assert json.loads(body)["headers"]["x-forwarded-for"] == "127.0.0.1"


@pytest.mark.parametrize(("sent", "passes"), [("a.b_C-9", True), ("a b", False), ("x" * 129, False)])
async def test_a_request_id_passes_when_it_is_plain(edged: Stack, sent: str, passes: bool):
    _, _, body = await edged.get("/", f"X-Request-ID: {sent}\r\n")
    assert ("x-request-id" in json.loads(body)["headers"]) is passes


@pytest.mark.parametrize(
    "path", ["/-/routes", "/-/healthz", "//-/routes", "/./-/routes", "/%2d/routes", "/%2D/healthz", "/-", "/-/routes?x=1"]
)
async def test_serves_own_routes_do_not_exist(edged: Stack, path: str):
    status, headers, body = await edged.get(path)
    assert (status, headers["content-type"]) == (404, "application/json")
    assert json.loads(body)["error"]["code"] == "unknown_url"
    assert all(path.encode() not in head for head in edged.upstream.heads)


@pytest.mark.parametrize(
    ("path", "size", "expected"), [("/v1/chat/completions", 2049, 413), ("/v1/files", 2049, 200), ("/v1/files", 80_000, 413)]
)
async def test_a_body_over_its_bound_is_refused_by_its_announced_length(edged: Stack, path: str, size: int, expected: int):
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {size}\r\n\r\n".encode()
    status, _, body = await edged.send(head + b"x" * (size if expected == 200 else 10))
    assert status == expected
    assert expected == 200 or json.loads(body)["error"]["code"] == "request_too_large"


async def test_headers_over_8_kib_are_refused(edged: Stack):
    status, _, body = await edged.get("/", f"X-Long: {'x' * 9000}\r\n")
    assert status == 431
    assert json.loads(body)["error"]["type"] == "invalid_request_error"


async def test_a_header_that_does_not_arrive_is_cut_within_its_receipt_time(edged: Stack):
    status, _, _ = await edged.send(b"GET / HTTP/1.1\r\nHost: x\r\n", patience_s=3)
    assert status == 408  # HAProxy's own words: there is no request yet that rules apply to


async def test_a_body_that_does_not_arrive_is_cut_within_its_receipt_time(edged: Stack):
    status, headers, body = await edged.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{", patience_s=3)
    assert (status, headers["x-should-retry"]) == (408, "false")
    assert json.loads(body)["error"]["code"] == "request_timeout"


async def test_without_the_application_it_says_when_to_come_back():
    async with stack(serve=False) as alone:
        status, headers, body = await alone.get("/v1/models")
        assert status == 503
        assert (headers["retry-after"], headers["retry-after-ms"]) == ("2", "2000")
        assert json.loads(body)["error"]["code"] == "server_overloaded"


async def test_without_serves_proxy_the_fallback_answers():
    async with stack(serve=False, fallback=True) as half:
        assert await half.status() == 200
        assert half.fallback.heads


@pytest.mark.parametrize("status", ["500 Internal Server Error", "404 Not Found", "503 Service Unavailable"])
async def test_serves_plain_text_errors_become_the_envelope(edged: Stack, status: str):
    edged.upstream.answer = lambda head: reply(b"Path not found", status, "text/plain; charset=utf-8")
    answered, headers, body = await edged.get("/v1/models")
    assert (answered, headers["content-type"]) == (503, "application/json")
    assert json.loads(body)["error"]["code"] == "server_overloaded"


async def test_the_applications_own_errors_pass_untouched(edged: Stack):
    edged.upstream.answer = lambda head: reply(b'{"error": {}}', "429 Too Many Requests")
    assert (await edged.get("/"))[::2] == (429, b'{"error": {}}')


async def test_a_stream_is_passed_on_as_it_comes():
    async with stack() as made:
        made.upstream.gate = asyncio.Event()
        reader, writer = await asyncio.open_connection("127.0.0.1", made.port)
        writer.write(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.wait_for(reader.readuntil(b"data: 1"), 2)
        made.upstream.gate.set()
        await asyncio.wait_for(reader.readuntil(b"data: 2"), 2)
        writer.close()


async def test_it_listens_on_its_port_and_nowhere_else(edged: Stack):
    processes = [one := psutil.Process(edged.process.pid), *one.children()]
    assert {c.laddr.port for p in processes for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN} == {edged.port}
    assert {door.name for door in edged.folder.glob("*.sock")} == {edge.DOOR, "master.sock"}
    assert [path.name for path in edged.folder.iterdir() if path.stat().st_mode & 0o077] == []
