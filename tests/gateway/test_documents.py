"""The document viewer, read as a browser does."""

import base64
import hashlib
import html
import re
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from httpx2 import AsyncClient, Response
from hypothesis import given
from hypothesis import strategies as st

from deployments.core.config import Gateway, Settings
from deployments.core.types import Chunk
from deployments.gateway import pages
from tests.fakes import Clock, Desk, database

TEXT = "# Wheel\n\nWater turns the wheel.\n\nThe race feeds it."
CHUNKS = [Chunk(0, TEXT[:31], ("Wheel",), 0, 31, 8), Chunk(1, TEXT[33:], ("Wheel", "Race"), 33, len(TEXT), 5)]
OURS = {"sec-fetch-site": "same-origin"}
CLOCK = Clock()


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with database(tmp_path, CLOCK) as store:
        yield Desk(store, Settings(data_dir=tmp_path, gateway=Gateway(key_cache_s=0)))


async def ingested(
    desk: Desk, key: str, *, filename: str = "wheel.md", title: str = "The wheel", text: str = TEXT, chunks: list[Chunk] = CHUNKS
) -> str:
    mine = desk.store.of(await desk.keys.verify(key))
    store_id = await mine.default_store() or (await mine.add_store("docs")).id
    file_id = (await mine.add_file(filename, "assistants", b"x")).id
    await mine.add_member(store_id, file_id, {})
    await mine.complete(store_id, file_id, title, text, chunks, np.ones((len(chunks), 4), np.float32))
    return file_id


async def sign_in(client: AsyncClient, file_id: str, key: str, headers: dict[str, str] = OURS) -> Response:
    return await client.post(f"/files/{file_id}", data={"key": key}, headers=headers)


class Page(HTMLParser):
    """The elements of a page, and its text."""

    def __init__(self, response: Response | str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(response if isinstance(response, str) else response.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def ids(self) -> list[str | None]:
        return [attributes["id"] for _, attributes in self.tags if "id" in attributes]


async def test_without_a_session_a_page_asks_for_a_key(desk: Desk) -> None:
    file_id = await ingested(desk, await desk.key("acme"))
    response = await desk.http().get(f"/files/{file_id}", headers={"sec-fetch-site": "none"})
    assert response.status_code == 401
    assert [dict(attributes) for tag, attributes in Page(response).tags if tag == "form"] == [{"method": "post"}]
    assert "wheel" not in response.text.lower()


@pytest.mark.parametrize("cookie", ["", "x", "é", "a" * 5000, "'; DROP TABLE sessions; --"])
async def test_a_cookie_that_opens_nothing_is_like_none(desk: Desk, cookie: str) -> None:
    response = await desk.http().get("/files/file-1", headers={b"cookie": b"headrace_session=" + cookie.encode()})
    assert response.status_code == 401


async def test_an_api_key_is_no_session(desk: Desk) -> None:
    key = await desk.key("acme")
    file_id = await ingested(desk, key)
    assert (await desk.http(key).get(f"/files/{file_id}")).status_code == 401


async def test_a_key_without_the_scope_opens_no_session(desk: Desk) -> None:
    file_id = await ingested(desk, await desk.key("acme"))
    client = desk.http()
    response = await sign_in(client, file_id, await desk.key("acme", "chat"))
    assert (response.status_code, "may not read files" in response.text) == (401, True)
    assert "set-cookie" not in response.headers


async def test_another_tenants_document_is_answered_like_one_that_never_was(desk: Desk) -> None:
    file_id = await ingested(desk, await desk.key("acme"))
    client = desk.http()
    await sign_in(client, "file-1", await desk.key("other"))
    foreign, unknown = await client.get(f"/files/{file_id}"), await client.get("/files/file-1")
    assert (foreign.status_code, foreign.content) == (404, unknown.content)


@pytest.mark.parametrize("key", ["", "hr_wrong", "\x00", "x" * 300, "é", " "])
async def test_a_wrong_key_is_asked_for_again(desk: Desk, key: str) -> None:
    response = await sign_in(desk.http(), "file-1", key)
    assert (response.status_code, "This key is not valid." in response.text) == (401, True)
    assert "set-cookie" not in response.headers
    assert not key.strip() or key not in html.unescape(response.text)


@pytest.mark.parametrize("body", [b"", b"key", b"%ff=%ff", b"a=1&b=2&key=", b"\xff\x00"])
async def test_a_form_that_is_odd_is_asked_for_again(desk: Desk, body: bytes) -> None:
    headers = {**OURS, "content-type": "application/x-www-form-urlencoded"}
    assert (await desk.http().post("/files/file-1", content=body, headers=headers)).status_code == 401


CROSS = [
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"sec-fetch-site": "none"},
    {"origin": "http://evil.test"},
    {"origin": "null"},
    {"origin": "http://headrace.test.evil.test"},
    {"origin": "http://headrace.test@evil.test"},
    {},
]


@pytest.mark.parametrize("headers", CROSS)
async def test_another_site_can_not_sign_a_visitor_in(desk: Desk, headers: dict[str, str]) -> None:
    response = await sign_in(desk.http(), "file-1", await desk.key("acme"), headers)
    assert response.status_code == 403
    assert "set-cookie" not in response.headers


@pytest.mark.parametrize("headers", [OURS, {"origin": "http://headrace.test"}])
async def test_a_key_opens_a_session_that_shows_the_document(desk: Desk, headers: dict[str, str]) -> None:
    key = await desk.key("acme")
    file_id = await ingested(desk, key)
    client = desk.http()
    response = await sign_in(client, file_id, key, headers)
    assert (response.status_code, response.headers["location"]) == (303, f"/files/{file_id}")
    attributes = {part.strip().lower() for part in response.headers["set-cookie"].split(";")[1:]}
    assert {"httponly", "samesite=strict", "path=/", "max-age=43200"} <= attributes
    assert "secure" not in attributes
    assert key not in response.headers["set-cookie"]
    shown = await client.get(f"/files/{file_id}")
    assert shown.status_code == 200
    assert Page(shown).ids == ["chunk=0", "chunk=1"]
    assert "The wheel" in shown.text


async def test_behind_https_the_cookie_is_secure(desk: Desk, tmp_path: Path) -> None:
    secure = Desk(desk.store, Settings(data_dir=tmp_path, public_url="https://headrace.test"))
    response = await sign_in(secure.http(), "file-1", await desk.key("acme"))
    assert "secure" in response.headers["set-cookie"].lower()


@pytest.mark.parametrize("path", ["/files/%2F%2Fevil.test", "/files/%0d%0aset-cookie:x=1", "/files/..%5Cx"])
async def test_signing_in_leads_nowhere_else(desk: Desk, path: str) -> None:
    response = await desk.http().post(path, data={"key": await desk.key("acme")}, headers=OURS)
    assert response.status_code in (303, 404)
    location = response.headers.get("location", "/files/")
    assert location.startswith("/files/")
    assert "\n" not in location
    assert "x" not in response.cookies


async def test_a_session_ends_with_its_time_or_its_key(desk: Desk) -> None:
    key = await desk.key("acme")
    file_id = await ingested(desk, key)
    client = desk.http()
    await sign_in(client, file_id, key)
    await desk.keys.revoke((await desk.keys.verify(key)).key_id)
    assert (await client.get(f"/files/{file_id}")).status_code == 401
    second = await desk.key("acme")
    await sign_in(client, file_id, second)
    assert (await client.get(f"/files/{file_id}")).status_code == 200
    CLOCK.forward(43200)
    assert (await client.get(f"/files/{file_id}")).status_code == 401


@pytest.mark.parametrize(("site", "offered"), [("cross-site", True), ("", True), ("same-origin", False), ("none", False)])
async def test_who_comes_from_another_site_is_offered_to_continue(desk: Desk, site: str, offered: bool) -> None:
    response = await desk.http().get("/files/file-1", headers={"sec-fetch-site": site} if site else {})
    forms = [attributes for tag, attributes in Page(response).tags if tag == "form"]
    assert ({"method": "get"} in forms) is offered


async def test_every_page_forbids_script_frames_and_copies(desk: Desk) -> None:
    key = await desk.key("acme")
    file_id = await ingested(desk, key)
    client = desk.http()
    answers = [await client.get(f"/files/{file_id}"), await sign_in(client, file_id, "wrong"), await sign_in(client, file_id, key, {})]
    await sign_in(client, file_id, key)
    answers += [await client.get(f"/files/{file_id}"), await client.get("/files/file-1")]
    assert [answer.status_code for answer in answers] == [401, 401, 403, 200, 404]
    for answer in answers:
        policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
        [style] = re.findall(r"<style>(.*?)</style>", answer.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        assert policy == {
            "default-src": "'none'",
            "style-src": f"'sha256-{digest}'",
            "form-action": "'self'",
            "frame-ancestors": "'none'",
            "base-uri": "'none'",
        }
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "private, no-store"
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert answer.headers["referrer-policy"] in ("no-referrer", "same-origin")


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</title></style></span></main><svg onload=alert(1)>",
    "<!-- --!><iframe srcdoc='x'>",
    "&lt;script&gt;",
    "javascript:alert(1)",
    "<base href=//evil.test>",
    "<meta http-equiv=refresh content='0;url=//evil.test'>",
    "<math><mtext></form><form><mglyph><style></math><img src onerror=alert(1)>",
    "{{7*7}} ${7*7} %(x)s",
]


def allowed(page: str) -> None:
    """Nothing but our own elements and attributes."""
    for tag, attributes in Page(page).tags:
        assert tag in {"html", "head", "meta", "title", "style", "body", "header", "h1", "p", "main", "span", "a"}
        assert set(attributes) <= {"lang", "charset", "name", "content", "class", "id", "title", "href", "aria-label"}
        assert (attributes.get("href") or "#chunk=").startswith("#chunk=")


@pytest.mark.parametrize("hostile", HOSTILE)
async def test_markup_in_a_document_is_shown_not_run(desk: Desk, hostile: str) -> None:
    key = await desk.key("acme")
    text = f"before {hostile} after"
    chunks = [Chunk(0, text, (hostile, hostile), 0, len(text), 3)]
    file_id = await ingested(desk, key, filename=hostile, title=hostile, text=text, chunks=chunks)
    client = desk.http()
    await sign_in(client, file_id, key)
    shown = (await client.get(f"/files/{file_id}")).text
    allowed(shown)
    assert "".join(Page(shown).texts).count(hostile) >= 3


SPANS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 30)), max_size=8)


@given(st.text(min_size=1, max_size=60), SPANS, st.text(max_size=20))
def test_any_text_with_any_passages_is_shown_whole_and_every_passage_has_its_anchor(
    text: str, spans: list[tuple[int, int]], heading: str
) -> None:
    chunks = [Chunk(n, "", (heading,), start, start + length, 1) for n, (start, length) in enumerate(spans)]
    page = pages.document(heading, heading, text, chunks)
    allowed(page)
    assert sorted(str(name) for name in Page(page).ids) == sorted(f"chunk={n}" for n in range(len(spans)))
    body = re.sub(r'<a class="number".*?</a>', "", page.split('<main class="text">')[1].split("</main>")[0])
    shown = html.unescape(re.sub(r"<[^<>]*>", "", body))
    assert re.sub(r"\n", "", shown) == re.sub(r"\n", "", text)


def test_passages_that_touch_or_overlap_are_each_reachable() -> None:
    chunks = [Chunk(0, "", (), 0, 4, 1), Chunk(1, "", (), 4, 8, 1), Chunk(2, "", (), 6, 10, 1)]
    page = pages.document("t", "f", "abcdefghij", chunks)
    shown = re.findall(r'id="chunk=(\d)".*?</a>(.*?)</span>', page)
    assert shown == [("0", "abcd"), ("1", "efgh"), ("2", "ij")]
