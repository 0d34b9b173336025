"""The rules for others' proxies are those of our own edge."""

import asyncio
import getpass
import json
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.core.config import Gateway, Node, Settings
from pipeline import edge
from pipeline.probe import pick
from tests.fakes import Desk, database, until
from tests.pipeline.proxied import UPGRADE, Front, Upstream, certify

OPS = Path(__file__).parents[1] / "ops"
DELETED = {*edge.STEERING, *edge.UNWANTED}


def documents(kind: str) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all((OPS / "gateway.yaml").read_text()) if one["kind"] == kind]


def test_the_clusters_gateway_deletes_what_our_edge_deletes():
    for rule in (rule for route in documents("HTTPRoute") for rule in route["spec"]["rules"]):
        (removed,) = [one["requestHeaderModifier"]["remove"] for one in rule["filters"] if one["type"] == "RequestHeaderModifier"]
        assert sorted(removed) == sorted(DELETED)
    (policy,) = documents("ClientTrafficPolicy")
    assert policy["spec"]["headers"]["withUnderscoresAction"] == "DropHeader"


async def test_the_clusters_gateway_routes_what_the_application_serves_and_nothing_of_serves(tmp_path: Path):
    async with database(tmp_path) as store:
        routers = [one.original_router for one in Desk(store, Settings(data_dir=tmp_path)).app.routes]
    matches = [match["path"] for route in documents("HTTPRoute") for rule in route["spec"]["rules"] for match in rule["matches"]]
    assert {match["type"] for match in matches} == {"PathPrefix"}
    prefixes = {match["value"] for match in matches}
    served = {"/" + route.path.split("/")[1] for router in routers for route in router.routes}
    assert served - {"/admin"} == prefixes  # administration stays within the cluster


def test_both_take_as_long_and_as_much_as_our_edge():
    text, gateway, node = (OPS / "nginx.conf").read_text(), Gateway(), Node()
    (policy,) = documents("ClientTrafficPolicy")
    assert f"client_header_timeout {node.receipt_s:.0f}s;" in text
    assert f"client_body_timeout {node.receipt_s:.0f}s;" in text
    assert f"limit_conn address {node.address_connections};" in text
    assert f"client_max_body_size {gateway.max_body_bytes >> 20}m;" in text
    assert policy["spec"]["timeout"]["http"]["requestReceivedTimeout"] == f"{2 * node.receipt_s:.0f}s"
    assert policy["spec"]["connection"]["connectionLimit"]["value"] == node.max_connections


@pytest.fixture
async def nginx(tmp_path: Path) -> AsyncIterator[Front]:
    """ops/nginx.conf with this test's ports and paths in it."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin") or pytest.skip(
        "there is no nginx: apt install nginx"
    )
    certified = certify(tmp_path)
    (port, behind), upstream_folder = pick(2), tempfile.TemporaryDirectory(prefix="hr-")
    text = (OPS / "nginx.conf").read_text()
    for old, new in (
        ("listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;"),
        ("server 127.0.0.1:8000;", f"server 127.0.0.1:{behind};"),
        ("/etc/nginx/tls/tls.crt", str(certified.cert)),
        ("/etc/nginx/tls/tls.key", str(certified.key)),
        ("client_header_timeout 5s;", "client_header_timeout 1s;"),
        ("client_body_timeout 5s;", "client_body_timeout 1s;"),
        ("worker_rlimit_nofile 65536;", ""),
        ("worker_processes auto;", "worker_processes 1;"),
        ("worker_connections 16384;", "worker_connections 256;"),
        (
            "    server_tokens off;",
            "".join(f"    {one}_temp_path {one};\n" for one in ("proxy", "client_body", "fastcgi", "uwsgi", "scgi")),
        ),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    with upstream_folder as folder:
        config = Path(folder) / "nginx.conf"
        config.write_text(f"user {getpass.getuser()};\npid nginx.pid;\nerror_log stderr;\ndaemon off;\n{text}")
        command = [program, "-p", folder, "-e", "stderr", "-c", str(config)]
        done = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        upstream = Upstream(behind)
        server = await asyncio.start_server(upstream.handle, "127.0.0.1", behind)
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
        front = Front(port, upstream, ssl.create_default_context(cafile=certified.cert))
        try:
            await until(front.is_up)
            yield front
        finally:
            process.terminate()
            await process.wait()
            server.close()


@pytest.mark.parametrize("name", [*sorted(DELETED), "X_Session-ID", "serve_multiplexed_model_id"])
async def test_nginx_deletes_what_steers_serve(nginx: Front, name: str):
    status, headers, body = await nginx.get("/v1/models", f"{name}: 1\r\n{name.upper()}: 2\r\n")
    assert status == 200
    assert name.lower() not in json.loads(body)["headers"]
    assert headers["strict-transport-security"] == "max-age=31536000"


async def test_nginx_tells_the_address_and_passes_plain_request_ids_alone(nginx: Front):
    _, _, body = await nginx.get("/", "X-Forwarded-For: 10.1.2.3\r\nX-Request-ID: a b\r\n")
    headers = json.loads(body)["headers"]
    assert (headers["x-forwarded-for"], headers["x-forwarded-proto"], headers.get("x-request-id")) == ("127.0.0.1", "https", None)
    _, _, body = await nginx.get("/", "X-Request-ID: a.b_C-9\r\n")
    assert json.loads(body)["headers"]["x-request-id"] == "a.b_c-9"


@pytest.mark.parametrize("path", ["/-/routes", "//-/routes", "/./-/routes", "/%2d/routes", "/-", "/-/routes?x=1", "/x/../-/routes"])
async def test_nginx_hides_serves_own_routes(nginx: Front, path: str):
    status, _, body = await nginx.get(path)
    assert (status, json.loads(body)["error"]["code"]) == (404, "unknown_url")
    assert all(b"routes" not in head for head in nginx.upstream.heads)


@pytest.mark.parametrize(
    ("path", "size", "status"), [("/v1/x", (1 << 20) + 1, 413), ("/v1/files", 1 << 25, 200), ("/v1/files", 1 << 26, 413)]
)
async def test_nginx_bounds_bodies(nginx: Front, path: str, size: int, status: int):
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {size}\r\n\r\n".encode()
    answered, _, body = await nginx.send(head + b"x" * (size if status == 200 else 10), 20)
    assert answered == status
    assert status == 200 or json.loads(body)["error"]["code"] == "request_too_large"


@pytest.mark.parametrize("half", [b"GET / HTTP/1.1\r\nHost: x\r\n", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"])
async def test_nginx_cuts_what_does_not_arrive(nginx: Front, half: bytes):
    await nginx.raw(half, 3)
    assert all(b"POST" not in head for head in nginx.upstream.heads)


async def test_nginx_passes_a_stream_on_as_it_comes(nginx: Front):
    nginx.upstream.gate = asyncio.Event()
    reader, writer = await nginx.open()
    writer.write(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
    await asyncio.wait_for(reader.readuntil(b"data: 1"), 2)
    nginx.upstream.gate.set()
    await asyncio.wait_for(reader.readuntil(b"data: 2"), 2)
    writer.close()


async def test_nginx_upgrades_a_websocket(nginx: Front):
    reader, writer = await nginx.open()
    writer.write(UPGRADE)
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
    writer.write(b"to and fro")
    assert await asyncio.wait_for(reader.readexactly(10), 2) == b"to and fro"
    writer.close()


async def test_without_the_application_nginx_says_when_to_come_back(nginx: Front):
    nginx.upstream.answer = lambda head: b""
    status, headers, body = await nginx.get("/v1/models")
    assert (status, headers["retry-after"], json.loads(body)["error"]["code"]) == (503, "2", "server_overloaded")
