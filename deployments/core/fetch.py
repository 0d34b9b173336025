"""Fetching what somebody else named, without being led into the own network (SSRF).

A host is resolved once; where any of its addresses is not a public one the request is refused, and otherwise the connection goes to an
address that was checked, with the host's name in TLS and in the `Host` header. So a name that means something else a moment later
(DNS rebinding) gains nothing, each redirect is checked like a first request, and no proxy of the environment stands between.
Source: OWASP, Server-Side Request Forgery Prevention Cheat Sheet.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

import httpx2

from deployments.core.errors import BackendFailed, HeadraceError

Address = IPv4Address | IPv6Address
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""The addresses of a host and port; raises OSError."""

_MAX_ADDRESSES = 4
_MAX_REDIRECTS = 3
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PLAIN = {"accept-encoding": "identity"}
"""What is packed could be far larger than its bytes."""
_OURS = {**_PLAIN, "user-agent": "headrace"}

_WRAPPING = (IPv6Network("64:ff9b::/96"), IPv6Network("::/96"))
"""Their last four bytes are an IPv4 address: NAT64 (RFC 6052) and compatible ones."""
_CLOSED = (IPv6Network("64:ff9b:1::/48"), IPv6Network("3fff::/20"))
"""Local translation, where the IPv4 address may stand anywhere (RFC 8215), and documentation (RFC 9637)."""


class Forbade(HeadraceError):
    """A URL that nothing may be fetched from: not http(s), odd, or within the own network."""

    status, type, code, retry = 400, "invalid_request_error", "forbidden_url", False


class Unfetched(BackendFailed):
    """It could not be fetched: not there, too slow, packed, or led elsewhere."""

    code = "not_fetched"


@dataclass(frozen=True)
class Bounds:
    """Of one fetch, redirects included: seconds, bytes of the body, and how often it may be led on."""

    timeout_s: float = 10
    max_bytes: int = 1 << 20
    redirects: int = 0


@dataclass(frozen=True)
class Fetched:
    """What came: the status, the type of the content as it was told, and the content, which ends at the bound where there is more."""

    status: int
    content_type: str
    body: bytes


def public(address: Address) -> bool:
    """Whether an address is one of the open Internet; those that wrap another are as public as it is."""
    if isinstance(address, IPv6Address):
        wrapped = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if any(address in network for network in _WRAPPING):
            wrapped = IPv4Address(address.packed[-4:])
        if wrapped is not None:
            return public(wrapped)
        if address.is_site_local or any(address in network for network in _CLOSED):
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


async def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host, as the system tells them; raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(one[4][0]) for one in found]


class Guarded(httpx2.AsyncBaseTransport):
    """Sends requests to public addresses only, and to `hosts` wherever they are; raises Forbade for others.

    It stands below whatever follows redirects, so each of them is checked. A reply that grows over `max_bytes` breaks off; one that is
    packed is refused with Unfetched, whoever would unpack it.
    """

    def __init__(
        self,
        hosts: Sequence[str] = (),
        resolver: Resolve = resolve,
        inner: httpx2.AsyncBaseTransport | None = None,
        max_bytes: int | None = None,
    ):
        self._max_bytes = max_bytes
        self._hosts = frozenset(host.lower() for host in hosts)
        self._resolve = resolver
        self._inner = inner or httpx2.AsyncHTTPTransport(trust_env=False, retries=0)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request to an address of its host that was checked."""
        url = request.url
        if url.scheme not in ("http", "https") or not url.host or url.userinfo:
            raise Forbade("a URL is http or https, names a host, and holds no user")
        addresses = await self._addresses(url)
        error: httpx2.HTTPError | None = None
        for address in addresses[:_MAX_ADDRESSES]:
            try:
                response = await self._inner.handle_async_request(_to(request, address))
                await _unpacked(response)
                if self._max_bytes is not None and isinstance(response.stream, httpx2.AsyncByteStream):
                    response.stream = _Counted(response.stream, self._max_bytes)
                return response
            except (httpx2.ConnectError, httpx2.ConnectTimeout) as failed:
                error = failed
        raise error or httpx2.ConnectError("the host has no address")

    async def aclose(self) -> None:
        """Close idle connections."""
        await self._inner.aclose()

    async def _addresses(self, url: httpx2.URL) -> list[Address]:
        host = url.host.rstrip(".").lower()
        try:
            told = await self._resolve(host, url.port or (443 if url.scheme == "https" else 80))
            addresses = [ip_address(address.split("%")[0]) for address in dict.fromkeys(told)]
        except (OSError, ValueError, UnicodeError) as error:
            raise httpx2.ConnectError("the host can not be resolved") from error
        if host not in self._hosts and not all(public(address) for address in addresses):
            raise Forbade("the URL leads into a network that is not public")
        return addresses


class _Counted(httpx2.AsyncByteStream):
    """A body that breaks off where it is too large."""

    def __init__(self, stream: httpx2.AsyncByteStream, left_bytes: int):
        self._stream, self._left_bytes = stream, left_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._stream:
            self._left_bytes -= len(piece)
            if self._left_bytes < 0:
                raise httpx2.ReadError("the reply is too large")
            yield piece

    async def aclose(self) -> None:
        """Close what is read."""
        await self._stream.aclose()


def _to(request: httpx2.Request, address: Address) -> httpx2.Request:
    """The same request to that address; TLS and the server still hear the name."""
    extensions = {**request.extensions, "sni_hostname": request.url.host}
    return httpx2.Request(
        request.method,
        request.url.copy_with(host=str(address)),
        headers={**request.headers, **_PLAIN},  # `Host` among them
        stream=request.stream,
        extensions=extensions,
    )


class Fetcher:
    """Fetches from public hosts, and from `hosts` of the own network; `transport` is what it sends through. It keeps no cookies."""

    def __init__(self, hosts: Sequence[str] = (), transport: httpx2.AsyncBaseTransport | None = None):
        self._hosts, self._transport = tuple(hosts), transport

    async def close(self) -> None:
        """Close idle connections."""
        if self._transport:
            await self._transport.aclose()

    async def fetch(
        self,
        url: str,
        bounds: Bounds,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Fetched:
        """One request, led on as often as the bounds say; `params` go behind the query that the URL has. Raises Forbade or Unfetched.

        Nothing is led on but a GET without a body, and headers go to the origin they are for, and nowhere else.
        """
        try:
            async with asyncio.timeout(bounds.timeout_s):
                target = httpx2.URL(url).copy_merge_params(dict(params or {}))
                request = httpx2.Request(method, target, headers={**_OURS, **(headers or {})}, content=body)
                for _ in range(min(bounds.redirects, _MAX_REDIRECTS) + 1):
                    response = await self._through().handle_async_request(request)
                    try:
                        if response.status_code not in _REDIRECTS:
                            kind = response.headers.get("content-type", "")
                            return Fetched(response.status_code, kind, await _body(response, bounds.max_bytes))
                        request = _next(request, response)
                    finally:
                        await response.aclose()
        except TimeoutError:
            raise Unfetched(f"it took longer than {bounds.timeout_s:g} s") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, UnicodeError) as error:
            raise Unfetched("it could not be reached, or broke off") from error
        raise Unfetched("it led elsewhere")

    def _through(self) -> httpx2.AsyncBaseTransport:
        if self._transport is None:  # a process makes its own
            self._transport = Guarded(self._hosts)
        return self._transport


def _next(request: httpx2.Request, response: httpx2.Response) -> httpx2.Request:
    if request.method != "GET" or "location" not in response.headers:
        raise Unfetched("it led elsewhere")
    target = request.url.join(response.headers["location"])
    same = (target.scheme, target.host, target.port) == (request.url.scheme, request.url.host, request.url.port)
    headers = {name: value for name, value in request.headers.items() if name != "host"} if same else _OURS
    return httpx2.Request("GET", target, headers=headers)


async def _body(response: httpx2.Response, max_bytes: int) -> bytes:
    content, stream = b"", response.stream
    if not isinstance(stream, httpx2.AsyncByteStream):
        raise Unfetched("it can not be read")
    async for piece in stream:
        content += piece
        if len(content) >= max_bytes:
            break
    return content[:max_bytes]


async def _unpacked(response: httpx2.Response) -> None:
    """Raises Unfetched for a reply that is packed."""
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        await response.aclose()
        raise Unfetched("it is packed, which was not asked for")
