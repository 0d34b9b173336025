"""B2: no form of Host or path gets past the key."""

import asyncio
import itertools
import re
from collections.abc import Callable

import pytest

from deployments.core.config import Settings
from deployments.gateway.app import routed
from tests.house import House

PUBLIC = ("/health", "/health/ready")
OPERATIONS = [
    (re.sub(r"{\w+}", "x", path), method.upper())
    for path, methods in routed(Settings()).openapi()["paths"].items()
    if path not in PUBLIC
    for method in methods
]
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
    "{0}/%2e",
    "{0}%2f",
    "{0}%3f",
    "/./{0}",
    "\\{0}",
    "{0}\\",
    "/health/%2e%2e{0}",
    "/health;{0}",
    "/health%3f{0}",
    "{0}?/health",
    "https://t:443{0}",
)
HOSTS = ("t", "evil.example", "t@evil", "t\r\nx-y: z", "127.0.0.1:1", "", "[::1]", "a/?x=", "t\r\nhost: other")


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
async def test_no_form_of_a_path_is_answered_without_a_key(house: House, host: str, cases: Callable[[int], None]) -> None:
    assert len(FORMS) * len(HOSTS) >= 200
    cases(len(FORMS) * len(OPERATIONS))
    for (route, method), form in itertools.product(OPERATIONS, FORMS):
        status = await ask(house, method, form.format(route), host)
        assert " 2" not in status[:12], (method, form, route, status)
