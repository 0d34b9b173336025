"""What may be fetched, and how it is bounded."""

import asyncio
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_address

import httpx2
import pytest

from deployments.core.fetch import Bounds, Fetcher, Forbade, Guarded, Unfetched, public

Answer = Callable[[httpx2.Request], httpx2.Response]


def answering(answer: Answer, addresses: list[str], sent: list[httpx2.Request]) -> Fetcher:
    """A fetcher that meets no network: every name has those addresses, in turn."""

    async def resolver(host: str, port: int) -> list[str]:
        return [addresses.pop(0) if len(addresses) > 1 else addresses[0]]

    def note(request: httpx2.Request) -> httpx2.Response:
        sent.append(request)
        return answer(request)

    return Fetcher(transport=Guarded(resolver=resolver, inner=httpx2.MockTransport(note)))


def plain(request: httpx2.Request) -> httpx2.Response:
    return httpx2.Response(200, headers={"content-type": "text/plain"}, content=b"hello")


async def test_the_connection_goes_to_the_address_that_was_checked_under_the_name() -> None:
    sent: list[httpx2.Request] = []
    got = await answering(plain, ["93.184.216.34", "127.0.0.1"], sent).fetch("https://example.org:8443/a?b=c", Bounds())
    assert (got.status, got.content_type, got.body) == (200, "text/plain", b"hello")
    assert str(sent[0].url) == "https://93.184.216.34:8443/a?b=c"
    assert sent[0].headers["host"] == "example.org:8443"
    assert sent[0].extensions["sni_hostname"] == "example.org"


async def test_a_redirect_is_checked_like_a_first_request() -> None:
    sent: list[httpx2.Request] = []

    def led(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(302, headers={"location": "http://inside.test/"})

    with pytest.raises(Forbade):
        await answering(led, ["93.184.216.34", "169.254.169.254"], sent).fetch("http://example.org/", Bounds(redirects=3))
    assert len(sent) == 1


async def test_headers_do_not_follow_to_another_origin() -> None:
    sent: list[httpx2.Request] = []

    def led(request: httpx2.Request) -> httpx2.Response:
        elsewhere = request.headers["host"] != "b.test"
        return httpx2.Response(302, headers={"location": "http://b.test/"}) if elsewhere else plain(request)

    fetcher = answering(led, ["93.184.216.34"], sent)
    got = await fetcher.fetch("http://a.test/", Bounds(redirects=1), headers={"authorization": "canary"})
    assert got.body == b"hello"
    assert ["authorization" in request.headers for request in sent] == [True, False]
    with pytest.raises(Unfetched):
        await fetcher.fetch("http://a.test/", Bounds())
    with pytest.raises(Unfetched):
        await fetcher.fetch("http://a.test/", Bounds(redirects=3), method="POST", body=b"{}")


class Endless(httpx2.AsyncByteStream):
    """A body that never ends."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 999
            await asyncio.sleep(0)


async def test_what_is_large_ends_at_the_bound() -> None:
    fetcher = answering(lambda _: httpx2.Response(200, stream=Endless()), ["93.184.216.34"], [])
    assert (await fetcher.fetch("http://a.test/", Bounds(max_bytes=10_000))).body == b"x" * 10_000


async def test_what_is_slow_or_packed_is_broken_off() -> None:
    class Silent(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            await asyncio.Event().wait()
            yield b""

    for response in (
        httpx2.Response(200, stream=Silent()),
        httpx2.Response(200, headers={"content-encoding": "gzip"}, stream=Endless()),
    ):
        with pytest.raises(Unfetched):
            await answering(lambda _, response=response: response, ["93.184.216.34"], []).fetch("http://a.test/", Bounds(0.2, 10_000))


async def test_a_host_of_the_own_network_is_reached_where_it_is_named() -> None:
    async def inside(host: str, port: int) -> list[str]:
        return ["10.0.0.7"]

    guarded = Guarded(["Wiki.test"], inside, httpx2.MockTransport(plain))
    assert (await Fetcher(transport=guarded).fetch("http://wiki.test./", Bounds())).status == 200
    with pytest.raises(Forbade):
        await Fetcher(transport=guarded).fetch("http://other.test/", Bounds())


async def test_what_unpacks_is_given_nothing_packed() -> None:
    """A client that would unpack a reply, and asks for that, as libraries do."""
    sent: list[httpx2.Request] = []

    def bomb(request: httpx2.Request) -> httpx2.Response:
        sent.append(request)
        return httpx2.Response(200, headers={"content-encoding": "gzip"}, stream=Endless())

    async def resolver(host: str, port: int) -> list[str]:
        return ["93.184.216.34"]

    async with httpx2.AsyncClient(transport=Guarded(resolver=resolver, inner=httpx2.MockTransport(bomb))) as client:
        with pytest.raises(Unfetched):
            await client.get("http://a.test/", headers={"accept-encoding": "gzip"})
    assert sent[0].headers.get_list("accept-encoding") == ["identity"]


@pytest.mark.parametrize("address", ["64:ff9b:1::5db8:d822", "64:ff9b:1:5db8:d8:2200::", "3fff::1", "64:ff9b::7f00:1"])
def test_what_is_for_documentation_or_local_translation_is_not_public(address: str) -> None:
    assert not public(ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "64:ff9b::5db8:d822"])
def test_the_open_internet_is_public(address: str) -> None:
    assert public(ip_address(address))
