"""B1: nothing in a header reaches SQL as code."""

from sqlalchemy import func, select

from deployments.core.tables import Base
from tests.house import House

PAYLOADS = (
    "' OR '1'='1",
    "hr_' OR 1=1 --",
    'hr_" OR ""="',
    "hr_'; DROP TABLE api_keys; --",
    "hr_%",
    "hr____________",
    "hr_\\' UNION SELECT * FROM api_keys --",
    "hr_" + "a" * 7000,
    "hr_\xff\xfe",
    "hr_') OR revoked=0 --",
    "hr_${jndi:ldap://127.0.0.1}",
    "hr_*",
)


async def rows(house: House) -> list[int]:
    async with house.context.store.session() as session:
        return [await session.scalar(select(func.count()).select_from(table)) or 0 for table in Base.metadata.sorted_tables]


async def test_hostile_keys_open_nothing_and_change_nothing(house: House) -> None:
    before = await rows(house)
    async with house.http(None) as http:
        for payload in PAYLOADS:
            response = await http.get("/v1/models", headers=[(b"authorization", b"Bearer " + payload.encode("latin-1"))])
            assert response.status_code in (400, 401), payload
            assert payload not in response.text
    assert await rows(house) == before


async def test_hostile_ids_and_cursors_find_nothing_and_change_nothing(house: House) -> None:
    before = await rows(house)
    async with house.http() as http:
        for payload in PAYLOADS[:8]:
            for path in ("/v1/files/x", "/v1/vector_stores/x", "/v1/vector_stores/x/files"):
                response = await http.get(path, params={"after": payload, "limit": payload})
                assert response.status_code in (400, 404), (path, payload)
    assert await rows(house) == before
