"""GET /files/{id}: a document as people read it, where citations point; and the session that opens it."""

import asyncio
from urllib.parse import quote, urlsplit

from fastapi import APIRouter, Request, Response

from deployments.core.errors import NotFound, Unauthenticated
from deployments.core.tokens import is_token
from deployments.core.types import Principal
from deployments.gateway import pages
from deployments.gateway.bodies import BodyRoute
from deployments.gateway.context import SESSION_COOKIE, Context, Parts, identified
from deployments.gateway.shapes import form, serves

router = APIRouter(route_class=BodyRoute)

_SCOPE = "files:read"


@router.get("/files/{file_id}", response_class=Response, responses=serves("text/html", 200, 401, 403, 404))
async def show(file_id: str, request: Request, parts: Parts) -> Response:
    """The document with its passages marked, or a page that asks for a key."""
    try:
        visitor = await parts.keys.resume_session(request.cookies.get(SESSION_COOKIE, ""))
    except Unauthenticated:
        return _sign_in(elsewhere=_site(request) not in ("same-origin", "none"))
    return await _document(parts, visitor, file_id)


@router.post(
    "/files/{file_id}", response_class=Response, responses=serves("text/html", 303, 401, 403), openapi_extra=form(key={"type": "string"})
)
async def sign_in(file_id: str, request: Request, parts: Parts) -> Response:
    """Open a session with a key, and show the document: the form of the sign-in page."""
    if not _from_us(request):
        return _answer(pages.message("Not from here", "A session is only opened by a form of this site."), 403)
    async with request.form(max_files=0, max_fields=4) as form:
        key = form.get("key")
    try:
        visitor = await identified(request, _key(key))
    except Unauthenticated:
        return _sign_in(error="This key is not valid.")
    if _SCOPE not in visitor.scopes:
        return _sign_in(error="This key may not read files.")
    response = _answer("", 303)
    response.headers["location"] = f"/files/{quote(file_id, safe='')}"
    response.set_cookie(
        SESSION_COOKIE,
        await parts.keys.open_session(visitor),
        max_age=parts.settings.gateway.session_ttl_s,
        path="/",
        secure=parts.settings.base_url.startswith("https:"),
        httponly=True,
        samesite="strict",
    )
    return response


def _key(sent: object) -> str:
    """The key a form sent; a token opens no session, which would outlive it."""
    key = sent.strip() if isinstance(sent, str) else ""
    return "" if is_token(key) else key


async def _document(parts: Context, visitor: Principal, file_id: str) -> Response:
    if _SCOPE not in visitor.scopes:
        return _answer(pages.message("Not allowed", "The key of this session may not read files."), 403)
    mine = parts.store.of(visitor)
    try:
        file, text, passages = await mine.file(file_id), await mine.text(file_id), await mine.passages(file_id)
    except NotFound:
        return _answer(pages.message("Not found", "There is no such document, or it has not been ingested yet."), 404)
    page = await asyncio.to_thread(pages.document, file.title or file.filename, file.filename, text, passages)
    return _answer(page, 200)


def _sign_in(error: str = "", elsewhere: bool = False) -> Response:
    response = _answer(pages.sign_in(error, elsewhere), 401)
    response.headers["www-authenticate"] = "Bearer"
    # With no-referrer a form would send `Origin: null`; the origin is what `_from_us` looks at.
    response.headers["referrer-policy"] = "same-origin"
    return response


def _answer(page: str, status: int) -> Response:
    return Response(page, status, pages.HEADERS, media_type="text/html; charset=utf-8")


def _site(request: Request) -> str:
    return request.headers.get("sec-fetch-site", "")


def _from_us(request: Request) -> bool:
    """Whether a form of ours sent this; browsers that do not name the site name the origin."""
    if site := _site(request):
        return site == "same-origin"
    return urlsplit(request.headers.get("origin", "")).netloc == request.headers.get("host", "")
