"""D11: no URL leads into the own network, however it is written, wherever it redirects to, and whatever its name means the second time."""

import asyncio
from collections.abc import AsyncIterator, Callable

import httpx2
import pytest

from deployments.core.errors import HeadraceError
from deployments.core.fetch import Bounds, Fetcher, Guarded, resolve

HOSTS = """
127.0.0.1 127.0.0.2 127.1 127.0.1 0.0.0.0 0 2130706433 0x7f000001 0x7f.0.0.1 0x7f.1 017700000001 0177.0.0.1 0177.1 127.0.0.1. localhost
LOCALHOST localhost. LocalHost [::1] [0:0:0:0:0:0:0:1] [::] [::ffff:127.0.0.1] [::ffff:7f00:1] [0:0:0:0:0:ffff:127.0.0.1] [::127.0.0.1]
[64:ff9b::127.0.0.1] [64:ff9b:1::7f00:1] [2002:7f00:1::] [2002:7f00:0001::1] [2001:0:4136:e378:8000:63bf:80ff:fffe] [fe80::1] [fe80::1%25lo]
[fc00::1] [fd00:ec2::254] [fec0::1] [ff02::1] 10.0.0.1 10.255.255.255 172.16.0.1 172.31.255.255 192.168.0.1 192.168.255.255 169.254.169.254
169.254.170.2 2852039166 0xa9fea9fe 0xa9.0xfe.0xa9.0xfe 0251.0376.0251.0376 100.64.0.1 100.100.100.200 192.0.0.192 192.0.2.1 198.18.0.1
198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 [::ffff:169.254.169.254] [::ffff:10.0.0.1]
[64:ff9b:1::5db8:d822] [64:ff9b:1:7f00:0:100::] [3fff::1] [3fff:fff::7f00:1]
""".split()
FORMS = ("http://{host}:{port}/", "https://{host}:{port}/a?b#c", "HTTP://{host}:{port}")
ODD = [
    "http://example.org@127.0.0.1:{port}/", "http://127.0.0.1:{port}@example.org/", "http://user:pass@127.0.0.1:{port}/",
    "http://127.0.0.1:{port}#@example.org/", "http://127.0.0.1:{port}?@example.org/", "http://example.org#@127.0.0.1:{port}/",
    "http://127.0.0.1:{port}\\@example.org/", "http://example.org\\@127.0.0.1:{port}/", "http://127.0.0.1%09:{port}/",
    "http://127.0.0.1:{port}\r\nHost: example.org/", "http://127.0.0.1%0d%0a:{port}/", "http:// 127.0.0.1:{port}/",
    "http://127.0.0.1 :{port}/", "http://\t127.0.0.1:{port}/", "http:127.0.0.1:{port}/", "http:///127.0.0.1:{port}/",
    "//127.0.0.1:{port}/", "127.0.0.1:{port}/", "http://①②⑦.⓪.⓪.①:{port}/", "http://127。0。0。1:{port}/", "http://ⓛocalhost:{port}/",
    "http://loc\u00adalhost:{port}/", "http://xn--localhost:{port}/", "http://[127.0.0.1]:{port}/", "http://127.0.0.1:{port}:80/",
    "file:///etc/passwd", "gopher://127.0.0.1:{port}/_x", "ftp://127.0.0.1:{port}/", "dict://127.0.0.1:{port}/x", "jar:http://127.0.0.1!/",
    "unix:/tmp/x", "data:text/plain,x", "javascript:1", "http://", "http://:{port}/", "http://./", "", "http://%31%32%37.0.0.1:{port}/",
]  # fmt: skip


@pytest.fixture
async def canary() -> AsyncIterator[tuple[int, list[int]]]:
    """A listener on the loopback that nobody may reach: its port, and who came."""
    came: list[int] = []

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(1)
        writer.close()

    async with await asyncio.start_server(hear, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1], came


async def known(host: str, port: int) -> list[str]:
    """As the system resolves what is written in numbers; names of the outside are not looked up."""
    return ["93.184.216.34"] if host.endswith("example.org") else await resolve(host, port)


def guarded(inner: httpx2.AsyncBaseTransport | None = None) -> Fetcher:
    return Fetcher(transport=Guarded(resolver=known, inner=inner))


class Outside(httpx2.AsyncHTTPTransport):
    """The real network but for the one address that is outside."""

    def __init__(self, location: str = "") -> None:
        super().__init__(trust_env=False)
        self._location = location

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if request.url.host == "93.184.216.34":
            return httpx2.Response(302, headers={"location": self._location}) if self._location else httpx2.Response(204)
        return await super().handle_async_request(request)


async def test_no_form_of_a_url_reaches_the_own_network(canary: tuple[int, list[int]], cases: Callable[[int], None]) -> None:
    port, came = canary
    urls = [form.format(host=host, port=port) for host in HOSTS for form in FORMS] + [odd.format(port=port) for odd in ODD]
    assert len(urls) >= 150
    fetcher = guarded(Outside())
    for url in urls:
        try:
            got = await fetcher.fetch(url, Bounds(2))
            assert got.status == 204, url  # it went outside
        except HeadraceError:
            pass
    assert came == []
    cases(len(urls))


async def test_no_redirect_leads_inside(canary: tuple[int, list[int]], cases: Callable[[int], None]) -> None:
    port, came = canary
    for host in HOSTS:
        with pytest.raises(HeadraceError):
            await guarded(Outside(f"http://{host}:{port}/")).fetch("http://example.org/", Bounds(2, redirects=3))
    assert came == []
    cases(len(HOSTS))


async def test_a_name_that_means_something_else_the_second_time_gains_nothing(canary: tuple[int, list[int]]) -> None:
    port, came = canary
    asked: list[str] = []

    async def rebinding(host: str, _: int) -> list[str]:
        asked.append(host)
        return ["93.184.216.34"] if len(asked) % 2 else ["127.0.0.1"]

    fetcher = Fetcher(transport=Guarded(resolver=rebinding, inner=Outside()))
    assert (await fetcher.fetch(f"http://rebind.test:{port}/", Bounds(2))).status == 204
    with pytest.raises(HeadraceError):
        await fetcher.fetch(f"http://rebind.test:{port}/", Bounds(2))
    assert asked == ["rebind.test"] * 2
    assert came == []


async def test_a_name_with_one_address_inside_is_refused_whole(canary: tuple[int, list[int]]) -> None:
    port, came = canary

    async def both(host: str, _: int) -> list[str]:
        return ["93.184.216.34", "127.0.0.1"]

    with pytest.raises(HeadraceError):
        await Fetcher(transport=Guarded(resolver=both, inner=Outside())).fetch(f"http://both.test:{port}/", Bounds(2))
    assert came == []


async def test_no_proxy_of_the_environment_is_asked(canary: tuple[int, list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    port, came = canary
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
    fetcher = Fetcher(["192.0.2.1"], None)
    with pytest.raises(HeadraceError):
        await fetcher.fetch("http://192.0.2.1:9/", Bounds(0.3))
    await fetcher.close()
    assert came == []
