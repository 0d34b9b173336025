"""B2: no form of Host or path gets past the key."""

import asyncio

import pytest

from tests.house import House

ROUTES = (
    "/v1/models",
    "/v1/chat/completions",
    "/v1/embeddings",
    "/v1/files/file-1",
    "/v1/vector_stores",
    "/files/file-1",
    "/admin/tenants",
)
FORMS = (
    "{0}",
    "/{0}",
    "{0}/",
    "{0}?x=",
    "{0}%00",
    "/x/..{0}",
    "/%2e%2e{0}",
    "{0};x",
    "//evil{0}",
    "http://evil{0}",
    "{0}/.",
    "/health/..{0}",
    "{0}#x",
    "*",
)
HOSTS = ("t", "evil.example", "t@evil", "t\r\nx-y: z", "127.0.0.1:1", "", "[::1]", "a/?x=")


async def ask(house: House, method: str, target: str, host: str) -> str:
    address = house.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(address[0], int(address[1]))
    writer.write(f"{method} {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode())
    try:
        status = await asyncio.wait_for(reader.readline(), 5)
    finally:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)
    return status.decode("latin-1")


@pytest.mark.parametrize("host", HOSTS)
async def test_no_form_of_a_path_is_answered_without_a_key(house: House, host: str) -> None:
    for route in ROUTES:
        for form in FORMS:
            for method in ("GET", "POST"):
                status = await ask(house, method, form.format(route), host)
                assert " 2" not in status[:12], (method, form, route, status)
