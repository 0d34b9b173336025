"""A8: nothing of the inside can be listed: no route but those of the document answers, and the document only where it is configured."""

import pytest

from tests.house import House

INSIDE = (
    "/-/routes /-/healthz /-/ /docs /redoc /openapi.json /openapi.yaml /docs/oauth2-redirect /metrics /admin /api /api/jobs/ /api/version "
    "/debug /stats /haproxy?stats /.env /.git/config /server-status /v1 /v1/ /v1/admin /v1/keys /favicon.ico /static/ /-/routes/ //-/routes"
).split()


@pytest.mark.parametrize("path", INSIDE)
async def test_the_inside_is_not_found_with_a_key_or_without(house: House, path: str) -> None:
    for key in (None, ""):
        async with house.http(key) as http:
            for method in ("GET", "POST", "OPTIONS", "HEAD", "PUT", "TRACE"):
                response = await http.request(method, house.url + path)
                assert response.status_code in (401, 404), (method, path)
                if method != "HEAD":
                    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
