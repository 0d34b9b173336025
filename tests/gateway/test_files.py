"""/v1/files over HTTP."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.core.config import Gateway, Settings
from deployments.core.errors import InvalidRequest
from deployments.core.types import Chunk, Source
from deployments.gateway.api.files import filename
from tests.fakes import Desk, FakeEmbeds, database

BOUND = 4096
CHUNK = Chunk(0, "a", (), 0, 1, 1)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with database(tmp_path) as store:
        yield Desk(store, Settings(data_dir=tmp_path, gateway=Gateway(max_body_bytes=2048, max_upload_bytes=BOUND)))


CALLS = [("POST", "/v1/files"), ("GET", "/v1/files/file-1"), ("GET", "/v1/files/file-1/content"), ("DELETE", "/v1/files/file-1")]


@pytest.mark.parametrize(("method", "path"), CALLS)
async def test_without_a_key_nothing_is_read(desk: Desk, method: str, path: str) -> None:
    async def body() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    headers = {"content-type": "multipart/form-data; boundary=x"}
    response = await desk.http().request(method, path, headers=headers, content=body() if method == "POST" else None)
    assert response.status_code == 401
    assert response.json()["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize(("method", "path"), CALLS)
async def test_a_key_without_the_scope_is_refused(desk: Desk, method: str, path: str) -> None:
    key = await desk.key("acme", "chat", "files:read" if method in ("POST", "DELETE") else "files:write")
    response = await desk.http(key).request(method, path)
    assert (response.status_code, response.json()["error"]["code"]) == (403, "insufficient_scope")


@pytest.mark.parametrize(("method", "path"), [call for call in CALLS if call[0] != "POST"])
async def test_another_tenants_file_is_answered_like_one_that_never_was(desk: Desk, method: str, path: str) -> None:
    acme, other = desk.openai(await desk.key("acme")), desk.http(await desk.key("other"))
    file = await acme.files.create(file=("a.md", b"# A"), purpose="assistants")
    foreign = await other.request(method, path.replace("file-1", file.id))
    unknown = await other.request(method, path)
    assert (foreign.status_code, unknown.status_code) == (404, 404)
    assert foreign.text.replace(file.id, "file-1") == unknown.text
    assert (await acme.files.content(file.id)).content == b"# A"


@pytest.mark.parametrize(
    ("data", "files", "param"),
    [
        ({"purpose": "assistants"}, {}, "file"),
        ({"purpose": "assistants", "file": "not a file"}, {}, "file"),
        ({}, {"file": ("a.md", b"x")}, "purpose"),
        ({"purpose": "world domination"}, {"file": ("a.md", b"x")}, "purpose"),
        ({"purpose": "assistants", "expires_after[seconds]": "60"}, {"file": ("a.md", b"x")}, "expires_after[seconds]"),
        ({"purpose": "assistants"}, {"file": ("../..", b"x")}, "file"),
        ({"purpose": "assistants"}, {"file": ("x" * 513, b"x")}, "file"),
    ],
)
async def test_a_form_that_is_wrong_names_the_field(
    desk: Desk, data: dict[str, str], files: dict[str, tuple[str, bytes]], param: str
) -> None:
    response = await desk.http(await desk.key("acme")).post("/v1/files", data=data, files=files)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=x", b"not multipart"),
        ("multipart/form-data; boundary=x", b"--x\r\ncontent-disposition: form-data\r\n\r\n\r\n--x--\r\n"),
        ("application/json", b"{}"),
        ("application/json", b"\xff"),
        ("", b""),
    ],
)
async def test_a_body_that_is_no_form_is_refused(desk: Desk, content_type: str, body: bytes) -> None:
    response = await desk.http(await desk.key("acme")).post("/v1/files", content=body, headers={"content-type": content_type})
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


async def test_a_second_file_or_a_long_field_is_refused(desk: Desk) -> None:
    client = desk.http(await desk.key("acme"))
    two = [("file", ("a.md", b"x")), ("file", ("b.md", b"x"))]
    assert (await client.post("/v1/files", data={"purpose": "assistants"}, files=two)).status_code == 400
    assert (await client.post("/v1/files", data={"purpose": "x" * 5000}, files=two[:1])).status_code == 400


async def test_a_file_over_the_bound_is_refused(desk: Desk) -> None:
    client = desk.http(await desk.key("acme"))
    for size, status in ((BOUND, 200), (BOUND + 1, 413)):
        response = await client.post("/v1/files", data={"purpose": "assistants"}, files={"file": ("a.md", b"x" * size)})
        assert response.status_code == status
    assert response.json()["error"]["code"] == "file_too_large"


async def test_an_endless_body_is_cut_while_it_is_read(desk: Desk) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        yield b'--x\r\ncontent-disposition: form-data; name="file"; filename="a.md"\r\n\r\n'
        while True:
            sent += 1 << 16
            yield b"x" * (1 << 16)

    headers = {"content-type": "multipart/form-data; boundary=x"}
    response = await desk.http(await desk.key("acme")).post("/v1/files", content=endless(), headers=headers)
    assert response.status_code == 413
    assert sent <= BOUND + (3 << 16)


async def test_a_file_is_kept_described_returned_and_deleted(desk: Desk) -> None:
    client = desk.openai(await desk.key("acme"))
    file = await client.files.create(file=("tutorial/query-params.md", b"\x00\xff bytes"), purpose="assistants")
    assert (file.filename, file.bytes, file.status, file.purpose) == ("tutorial/query-params.md", 8, "processed", "assistants")
    assert await client.files.retrieve(file.id) == file
    assert await client.files.wait_for_processing(file.id) == file
    assert (await client.files.content(file.id)).content == b"\x00\xff bytes"
    assert (await client.files.delete(file.id)).deleted
    assert (await desk.http(await desk.key("acme")).get(f"/v1/files/{file.id}")).status_code == 404


async def test_a_download_is_never_shown_as_a_page(desk: Desk) -> None:
    key = await desk.key("acme")
    file = await desk.openai(key).files.create(file=("x.html", b"<script>alert(1)</script>"), purpose="assistants")
    headers = (await desk.http(key).get(f"/v1/files/{file.id}/content")).headers
    assert headers["content-disposition"] == "attachment"
    assert headers["content-type"] == "application/octet-stream"
    assert headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in headers["content-security-policy"]


async def test_a_deleted_file_leaves_every_store_and_the_index(desk: Desk) -> None:
    key = await desk.key("acme")
    client = desk.openai(key)
    file = await client.files.create(file=("a.md", b"# A"), purpose="assistants")
    stores = [await client.vector_stores.create(name=str(n), file_ids=[file.id]) for n in range(2)]
    principal = await desk.keys.verify(key)
    for store in stores:
        await desk.retrieves.replace(principal, store.id, Source(file.id, "a.md", "A"), [CHUNK], await FakeEmbeds().embed(["a"]))
    await client.files.delete(file.id)
    assert desk.retrieves.files == {}
    assert [(await client.vector_stores.retrieve(store.id)).file_counts.total for store in stores] == [0, 0]


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("a.md", "a.md"),
        ("../../etc/passwd", "etc/passwd"),
        ("/abs/./x//y.md", "abs/x/y.md"),
        ("C:\\docs\\a.md", "C:/docs/a.md"),
        ("a\x00b\x1b[31m.md", "ab[31m.md"),
        ("\u202egpj.exe", "gpj.exe"),
        (" a / b.md ", "a/b.md"),
        ("cafe\u0301.md", "café.md"),
    ],
)
def test_a_filename_is_a_plain_relative_path(sent: str, kept: str) -> None:
    assert filename(sent) == kept


@given(st.text(st.characters(), max_size=40))
def test_no_filename_leaves_its_folder_or_hides_a_character(sent: str) -> None:
    try:
        name = filename(sent)
    except InvalidRequest:
        return
    assert not name.startswith("/")
    assert ".." not in name.split("/")
    assert name.encode()
    assert filename(name) == name
