"""A real edge in front of upstreams that note what reaches them."""

import asyncio
import contextlib
import datetime
import json
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from deployments.core.config import Gateway, Node, Settings
from pipeline.edge import LIVE, Edge, configure
from pipeline.probe import pick
from tests.fakes import until

Answer = Callable[[bytes], bytes]


def reply(body: bytes, status: str = "200 OK", kind: str = "application/json") -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body


def mirror(head: bytes) -> bytes:
    lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
    return reply(json.dumps({"path": lines[0].split()[1], "headers": headers}).encode())


UPGRADE = (  # key and answer of RFC 6455, section 1.3
    b"GET /v1/responses HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
UPGRADED = (
    b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
    b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)


@dataclass
class Upstream:
    """Stands in for Serve: answers each request by `answer`, health always; notes the bytes it got."""

    port: int
    answer: Answer = mirror
    heads: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    gate: asyncio.Event | None = None

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            try:
                await self._serve(reader, writer)
            finally:
                writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(f"GET {LIVE} ".encode()):
            writer.write(reply(b"{}"))
            return
        self.heads.append(head)
        if b"upgrade: websocket" in head.lower():
            writer.write(UPGRADED)
            while piece := await reader.read(65536):
                writer.write(piece)
            return
        self.bodies.append(await body(head.lower(), reader))
        if self.gate is not None and head.startswith(b"GET /stream "):
            await self._stream(writer, self.gate)
        else:
            writer.write(self.answer(head))
            await writer.drain()

    async def _stream(self, writer: asyncio.StreamWriter, gate: asyncio.Event) -> None:
        """Two events; the second waits for the gate."""
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n7\r\ndata: 1\r\n")
        await gate.wait()
        writer.write(b"7\r\ndata: 2\r\n0\r\n\r\n")


async def body(head: bytes, reader: asyncio.StreamReader) -> bytes:
    """A body as it came, the frame of chunks included."""
    if b"transfer-encoding: chunked" in head:
        return await reader.readuntil(b"0\r\n\r\n")
    _, _, length = head.partition(b"content-length: ")
    return await reader.readexactly(int(length.split(b"\r\n")[0])) if length else b""


@dataclass
class Front:
    """A proxy on a port, what is behind it, and a client of it."""

    port: int
    upstream: Upstream
    tls: ssl.SSLContext | None = None

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=self.tls, server_hostname="localhost" if self.tls else None)

    async def raw(self, request: bytes, patience_s: float = 5) -> bytes:
        """Everything that is answered to these bytes, to the connection's end."""
        try:
            reader, writer = await self.open()
        except ConnectionResetError:
            return b""
        try:
            writer.write(request)
            return await asyncio.wait_for(reader.read(), patience_s)
        except ConnectionResetError:
            return b""
        finally:
            writer.close()

    async def send(self, request: bytes, patience_s: float = 5) -> tuple[int, dict[str, str], bytes]:
        head, _, content = (await self.raw(request, patience_s)).partition(b"\r\n\r\n")
        if not head:
            return 0, {}, b""
        lines = head.decode().split("\r\n")
        return int(lines[0].split()[1]), dict(line.lower().split(": ", 1) for line in lines[1:]), content

    async def get(self, path: str, headers: str = "") -> tuple[int, dict[str, str], bytes]:
        return await self.send(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n".encode())

    async def status(self) -> int:
        return (await self.get("/"))[0]

    async def is_up(self) -> bool:
        """True once it answers; a connection that is refused is not yet an answer."""
        try:
            return await self.status() == 200
        except OSError:
            return False


@dataclass
class Stack(Front):
    """Our edge, with Serve's fallback behind it, too."""

    fallback: Upstream = field(kw_only=True)
    folder: Path = field(kw_only=True)
    edge: Edge = field(kw_only=True)
    settings: Settings = field(kw_only=True)
    process: asyncio.subprocess.Process = field(init=False)

    async def run(self) -> None:
        """Start the edge, again where it was killed."""
        none = asyncio.subprocess.DEVNULL
        self.process = await asyncio.create_subprocess_exec(*self.edge.argv, stdout=none, stderr=none)


@asynccontextmanager
async def stack(*, serve: bool = True, fallback: bool = False, tls: ssl.SSLContext | None = None, **node: Any) -> AsyncIterator[Stack]:
    port, serve_port, fallback_port = pick(3)
    upstreams = Upstream(serve_port), Upstream(fallback_port)
    async with AsyncExitStack() as open_ones:
        folder = Path(open_ones.enter_context(tempfile.TemporaryDirectory(prefix="hr-")))  # a socket's path is short
        bounds = Gateway(max_body_bytes=2048, max_upload_bytes=8192)
        settings = Settings(data_dir=folder, port=port, gateway=bounds, node=Node(**{"receipt_s": 0.5, "max_connections": 64} | node))
        proxy = configure(folder, settings, serve_port, fallback_port)
        for one, wanted in zip(upstreams, (serve, fallback), strict=True):
            if wanted:
                server = await asyncio.start_server(one.handle, "127.0.0.1", one.port)
                open_ones.push_async_callback(server.wait_closed)
                open_ones.callback(server.close)
        made = Stack(port, upstreams[0], tls, fallback=upstreams[1], folder=folder, edge=proxy, settings=settings)
        await made.run()
        try:
            await until(proxy.up)
            if serve or fallback:
                await until(made.status, equals=200)
            yield made
        finally:
            if made.process.returncode is None:
                made.process.terminate()
            await made.process.wait()


@dataclass(frozen=True)
class Certified:
    """A self-signed certificate for localhost and its key."""

    cert: Path
    key: Path


def certify(folder: Path, serial: int = 1) -> Certified:
    """Make one, in place of the one before."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), serial, now, now + datetime.timedelta(days=1))
    made = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False).sign(key, hashes.SHA256())
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    cert_path, key_path = folder / "cert.pem", folder / "key.pem"
    cert_path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
    return Certified(cert_path, key_path)
