"""The edge changes its configuration and its certificate, dies and comes back, and clients hardly notice."""

import asyncio
import contextlib
import os
import signal
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from cryptography import x509

from deployments.core.config import Node, Settings
from pipeline.child import Backoff, Child, Command
from pipeline.edge import Unusable
from tests.fakes import until
from tests.pipeline.proxied import UPGRADE, Stack, certify, stack


@contextlib.asynccontextmanager
async def secured(folder: Path) -> AsyncIterator[Stack]:
    own = certify(folder)
    async with stack(tls=ssl.create_default_context(cafile=own.cert), tls_cert=own.cert, tls_key=own.key) as made:
        yield made


async def asking(made: Stack, enough: asyncio.Event) -> tuple[int, int]:
    """Requests one after the other, each on a connection of its own: how many were answered, and how many not."""
    answered = failed = 0
    while not enough.is_set():
        try:
            answered += await made.status() == 200
        except OSError:
            failed += 1
    return answered, failed


@pytest.mark.parametrize("times", [3, pytest.param(50, marks=pytest.mark.full)])
async def test_a_reload_under_load_refuses_no_connection_and_cuts_no_stream(times: int):
    async with stack() as made:
        made.upstream.gate, enough = asyncio.Event(), asyncio.Event()
        streams = [await made.open() for _ in range(5)]
        for reader, writer in streams:
            writer.write(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readuntil(b"data: 1")
        socket_reader, socket_writer = await made.open()
        socket_writer.write(UPGRADE)
        await socket_reader.readuntil(b"\r\n\r\n")
        clients = [asyncio.create_task(asking(made, enough)) for _ in range(8)]
        for _ in range(times):
            await made.edge.reload()
            await asyncio.sleep(0.05)
        enough.set()
        answered, failed = map(sum, zip(*await asyncio.gather(*clients), strict=True))
        made.upstream.gate.set()
        for reader, writer in streams:
            await asyncio.wait_for(reader.readuntil(b"data: 2"), 2)
            writer.close()
        socket_writer.write(b"still there")
        assert await asyncio.wait_for(socket_reader.readexactly(11), 2) == b"still there"
        socket_writer.close()
        print(f"\n{times} reloads: {answered} requests answered, {failed} failed, 5 streams and a WebSocket went on")  # noqa: T201
        assert (answered > 20 * times, failed) == (True, 0)
        await until(lambda: len(psutil.Process(made.process.pid).children()), equals=1)


async def test_a_reload_puts_new_bounds_in_force():
    async with stack() as made:
        request = b"GET / HTTP/1.1\r\nHost: x\r\n"
        begun = time.monotonic()
        made.edge.write(made.settings.model_copy(update={"node": made.settings.node.model_copy(update={"receipt_s": 2})}))
        await made.edge.reload()
        assert (await made.raw(request)).startswith(b"HTTP/1.1 408")
        assert time.monotonic() - begun > 1.9


async def test_a_configuration_that_haproxy_refuses_leaves_the_old_one_in_force():
    async with stack() as made:
        config = made.folder / "edge.cfg"
        config.write_text(config.read_text().replace("maxconn", "nonsense", 1))
        with pytest.raises(Unusable, match="nonsense"):
            await made.edge.reload()
        assert await made.status() == 200


async def test_with_a_certificate_it_speaks_https_alone(tmp_path: Path):
    async with secured(tmp_path) as made:
        for path, status in (("/v1/models", 200), ("/-/routes", 404)):
            answered, headers, _ = await made.get(path)
            assert (answered, headers["strict-transport-security"]) == (status, "max-age=31536000")
        assert b"x-forwarded-proto: https" in made.upstream.heads[-1]
        _, writer = await made.open()
        assert writer.get_extra_info("ssl_object").version() in ("TLSv1.2", "TLSv1.3")
        writer.close()
        made.tls = None
        assert not (await made.raw(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).startswith(b"HTTP/1.1 200")


async def test_older_tls_and_http2_are_not_offered(tmp_path: Path):
    async with secured(tmp_path) as made:
        made.tls = ssl.create_default_context(cafile=tmp_path / "cert.pem")
        made.tls.set_alpn_protocols(["h2", "http/1.1"])
        _, writer = await made.open()
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
        writer.close()
        made.tls = ssl.create_default_context(cafile=tmp_path / "cert.pem")
        made.tls.set_ciphers("DEFAULT@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1"):
            made.tls.minimum_version, made.tls.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
        with pytest.raises(ssl.SSLError):
            await made.open()


async def test_a_handshake_that_stalls_is_cut(tmp_path: Path):
    async with secured(tmp_path) as made:
        made.tls, begun = None, time.monotonic()
        assert await made.raw(b"\x16\x03\x01") == b""
        assert time.monotonic() - begun < 3


async def test_a_reload_brings_a_renewed_certificate_and_a_wrong_one_changes_nothing(tmp_path: Path):
    async with secured(tmp_path) as made:

        async def serial() -> int:
            made.tls = ssl.create_default_context()
            made.tls.check_hostname, made.tls.verify_mode = False, ssl.CERT_NONE
            _, writer = await made.open()
            der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            writer.close()
            return x509.load_der_x509_certificate(der).serial_number

        assert await serial() == 1
        certify(tmp_path, 2)
        made.edge.write(made.settings)
        await made.edge.reload()
        assert await serial() == 2
        (tmp_path / "key.pem").write_bytes(b"half written")
        with pytest.raises(Unusable, match="certificate"):
            made.edge.write(made.settings)
        await made.edge.reload()
        assert await serial() == 2


def test_the_url_follows_the_certificate(tmp_path: Path):
    own = certify(tmp_path)
    assert Settings(node=Node(tls_cert=own.cert, tls_key=own.key), port=8443).base_url == "https://127.0.0.1:8443"
    with pytest.raises(ValueError, match="go together"):
        Node(tls_cert=own.cert)


@pytest.mark.parametrize("times", [2, pytest.param(10, marks=pytest.mark.full)])
@pytest.mark.parametrize("victim", ["master", "worker"])
async def test_a_killed_edge_accepts_again_within_a_second(tmp_path: Path, victim: str, times: int):
    async with stack() as made:
        made.process.terminate()
        await made.process.wait()
        child = Child(
            "edge", Command(made.edge.argv, dict(os.environ)), tmp_path / "log", probe=made.edge.up, backoff=Backoff(0.05, 0.5, 2)
        )
        child.start()
        enough, outages = asyncio.Event(), list[float]()
        try:
            await asyncio.wait_for(child.up.wait(), 5)
            clients = [asyncio.create_task(asking(made, enough)) for _ in range(8)]
            for _ in range(times):
                await asyncio.wait_for(child.up.wait(), 5)
                assert child.pid
                master = psutil.Process(child.pid)
                os.kill(master.pid if victim == "master" else master.children()[0].pid, signal.SIGKILL)
                begun = time.monotonic()
                await until(lambda was=master.pid: child.pid not in (None, was) and child.up.is_set())
                await until(made.status, equals=200)
                outages.append(time.monotonic() - begun)
            enough.set()
            answered, _ = map(sum, zip(*await asyncio.gather(*clients), strict=True))
        finally:
            await child.stop(signal.SIGTERM, 3)
        shown = ", ".join(f"{outage:.2f}" for outage in outages)
        print(f"\n{victim} killed {times} times under load: accepting again after {shown} s; {answered} answered")  # noqa: T201
        assert max(outages) <= 1
