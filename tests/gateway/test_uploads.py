"""/v1/uploads over HTTP, what is wrong with large files, and which requests count."""

import sys
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from httpx2 import AsyncClient

from deployments.core.config import Gateway, Settings
from deployments.core.limits import Limits
from tests.fakes import SCOPES, Desk, database
from tests.house import House

BOUND = 4096
MIB = 1 << 20


def bounded(folder: Path, **bounds: Any) -> Settings:
    return Settings(data_dir=folder, gateway=Gateway(**bounds))


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with database(tmp_path) as store:
        yield Desk(store, bounded(tmp_path, max_body_bytes=2048, max_upload_bytes=BOUND, max_open_uploads=3))


@pytest.fixture
async def http(desk: Desk) -> AsyncIterator[AsyncClient]:
    async with desk.http(await desk.key("acme")) as http:
        yield http


ASKED: dict[str, Any] = {"bytes": 5, "filename": "a.md", "mime_type": "text/markdown", "purpose": "assistants"}


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"bytes": 0}, 400, "bytes"),
        ({"bytes": BOUND + 1}, 413, "bytes"),
        ({"bytes": 100 * MIB}, 413, "bytes"),
        ({"filename": "../.."}, 400, "filename"),
        ({"filename": "x" * 513}, 400, "filename"),
        ({"purpose": "world domination"}, 400, "purpose"),
        ({"mime_type": None}, 400, "mime_type"),
        ({"expires_after": {"anchor": "created_at", "seconds": 60}}, 400, "expires_after.seconds"),
        ({"expires_after": {"anchor": "now", "seconds": 3600}}, 400, "expires_after.anchor"),
    ],
)
async def test_an_upload_that_can_not_be_is_refused_before_a_byte_of_it(
    http: AsyncClient, change: dict[str, Any], status: int, param: str
) -> None:
    refused = await http.post("/v1/uploads", json=ASKED | change)
    assert (refused.status_code, refused.json()["error"]["param"]) == (status, param)


async def test_a_file_of_100_mb_is_refused_wherever_it_comes(http: AsyncClient) -> None:
    large = b"x" * (100 * MIB)
    refused = await http.post("/v1/files", data={"purpose": "assistants"}, files={"file": ("a.md", large)})
    assert (refused.status_code, refused.json()["error"]["type"]) == (413, "invalid_request_error")
    upload = (await http.post("/v1/uploads", json=ASKED)).json()["id"]
    assert (await http.post(f"/v1/uploads/{upload}/parts", files={"data": ("upload", large)})).status_code == 413
    assert (await http.get("/v1/files")).json()["data"] == []


async def test_a_part_is_a_file_that_is_not_empty_and_fits(http: AsyncClient) -> None:
    path = f"/v1/uploads/{(await http.post('/v1/uploads', json=ASKED)).json()['id']}/parts"
    for sent in ({"files": {"data": ("upload", b"")}}, {"files": {"file": ("upload", b"x")}}, {"data": {"data": "x"}}, {"json": {}}):
        refused = await http.post(path, **sent)
        assert refused.status_code == 400, sent
    refused = await http.post(path, files={"data": ("upload", b"sixsix")})
    assert (refused.status_code, refused.json()["error"]["param"]) == (413, "data")
    assert (await http.post(path, files={"data": ("upload", b"wheel")})).json()["object"] == "upload.part"


async def test_nothing_of_a_part_is_read_where_its_upload_is_not_open(http: AsyncClient) -> None:
    async def body() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    ended = (await http.post("/v1/uploads", json=ASKED)).json()["id"]
    await http.post(f"/v1/uploads/{ended}/cancel")
    headers = {"content-type": "multipart/form-data; boundary=x"}
    for name, status in (("upload_none", 404), (ended, 400)):
        assert (await http.post(f"/v1/uploads/{name}/parts", content=body(), headers=headers)).status_code == status


async def test_more_open_uploads_than_allowed_are_429_until_one_ends(http: AsyncClient) -> None:
    made = [await http.post("/v1/uploads", json=ASKED) for _ in range(4)]
    assert [one.status_code for one in made] == [200, 200, 200, 429]
    assert made[3].json()["error"]["code"] == "too_many_uploads"
    await http.post(f"/v1/uploads/{made[0].json()['id']}/cancel")
    assert (await http.post("/v1/uploads", json=ASKED)).status_code == 200


async def test_the_same_upload_twice_is_two_files_of_one_content(http: AsyncClient) -> None:
    sent = [await http.post("/v1/files", data={"purpose": "assistants"}, files={"file": ("a.md", b"# A")}) for _ in range(2)]
    assert len({one.json()["id"] for one in sent}) == 2
    assert [one.json()["bytes"] for one in sent] == [3, 3]


@pytest.mark.parametrize(
    ("data", "param"),
    [
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "3599"}, "expires_after[seconds]"),
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "1e9"}, "expires_after[seconds]"),
        ({"expires_after[anchor]": "last_active_at", "expires_after[seconds]": "3600"}, "expires_after[anchor]"),
        ({"expires_after[seconds]": "3600"}, "expires_after[anchor]"),
    ],
)
async def test_an_expiry_that_is_wrong_names_the_field(http: AsyncClient, data: dict[str, str], param: str) -> None:
    refused = await http.post("/v1/files", data=data | {"purpose": "assistants"}, files={"file": ("a.md", b"x")})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


async def test_a_large_file_is_held_few_times_over(tmp_path: Path) -> None:
    async with database(tmp_path) as store:
        desk = Desk(store, bounded(tmp_path))
        mine = store.of(await desk.keys.verify(await desk.key("acme")))
        upload = await mine.uploads.add("a.md", "assistants", 24 * MIB, 3600, 3)
        parts = [(await mine.uploads.put(upload.id, bytes(8 * MIB))).id for _ in range(3)]
        tracemalloc.start()
        await mine.uploads.complete(upload.id, parts)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    sys.stdout.write(f"completing an upload of 24 MiB took {most / MIB:.0f} MiB at most\n")
    assert most < 3.5 * 24 * MIB


async def test_uploads_and_searches_count_against_the_callers_rate(house: House) -> None:
    tight = await house.context.keys.mint("ours", SCOPES, limits=Limits(requests_per_minute=3))
    async with house.http(tight.secret) as http:
        first = await http.post("/v1/files", data={"purpose": "assistants"}, files={"file": ("a.md", b"# A")})
        assert first.headers["x-ratelimit-limit-requests"] == "3"
        store_id = (await http.post("/v1/vector_stores", json={"name": "docs"})).json()["id"]
        answers = [await http.post(f"/v1/vector_stores/{store_id}/search", json={"query": "wheel"}) for _ in range(3)]
        answers.append(await http.post("/v1/uploads", json=ASKED))
    assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
    assert answers[2].json()["error"]["code"] == "rate_limit_exceeded"
    assert "retry-after-ms" in answers[2].headers
