"""The HTTP application: its routes, and how its errors look. It knows nothing of Ray."""

import asyncio
from contextlib import asynccontextmanager
from functools import cache, partial
from typing import Any

from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute

from deployments.core import spans
from deployments.core.config import Settings
from deployments.core.errors import HeadraceError
from deployments.core.sql import AWAY
from deployments.gateway import envelope
from deployments.gateway.api import (
    admin,
    canaries,
    catalogue,
    chat_completions,
    completions,
    conversations,
    documents,
    embeddings,
    file_batches,
    files,
    health,
    models,
    ops,
    prompts,
    responses,
    search,
    session_tokens,
    sockets,
    traces,
    uploads,
    usage,
    vector_stores,
)
from deployments.gateway.context import App, Context
from deployments.gateway.cors import Cors
from deployments.gateway.idempotency import Idempotency
from deployments.gateway.measured import Measured, backlog, pulse
from deployments.gateway.middleware import BodyBound, Hosts, Sockets
from deployments.gateway.openapi import REFUSED, TITLE, describe
from deployments.gateway.receipt import Receipt
from deployments.gateway.rules import rules

_ANSWERS = (chat_completions, completions, responses, sockets, conversations, embeddings, models)
_STORES = (vector_stores, file_batches, search)
_APIS = (*_ANSWERS, *_STORES, documents, session_tokens, admin, catalogue, prompts, canaries, usage, traces, ops, health)


def build_app(context: Context) -> App:
    """The application over a context; its lifespan starts and closes what runs beside requests. Raises Unguarded."""

    @asynccontextmanager
    async def lifespan(app: App):
        context.hub.start()
        context.gate.start()
        runs = (context.watch.run(), context.refusals.run(), context.picker.run(context.store), context.traces.run())
        beside = [asyncio.create_task(one) for one in (*runs, pulse(context), backlog(context))]
        yield
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        await context.gate.close()
        await context.hub.close()
        await context.outbox.close()
        await context.store.close()
        await asyncio.to_thread(spans.stop)

    app = routed(context.settings)
    app.router.lifespan_context = lifespan
    app.context = context
    rules(app.routes)
    app.add_exception_handler(HeadraceError, envelope.on_headrace_error)
    app.add_exception_handler(RequestValidationError, envelope.on_invalid)
    app.add_exception_handler(HTTPException, envelope.on_http)
    for kind in AWAY:
        app.add_exception_handler(kind, envelope.on_database)
    app.add_exception_handler(Exception, envelope.on_anything)
    app.add_middleware(Receipt)
    limits = context.settings.gateway
    app.add_middleware(Idempotency, parts=context)
    app.add_middleware(BodyBound, max_body_bytes=limits.max_body_bytes, max_upload_bytes=limits.max_upload_bytes)
    if limits.origins:
        app.add_middleware(Cors, origins=limits.origins)
    app.add_middleware(Measured)
    app.add_middleware(Sockets, routes=sockets.router.routes)
    if limits.hosts:
        app.add_middleware(Hosts, hosts=limits.hosts)
    return app


def routed(settings: Settings) -> App:
    """The routes alone, which is all that the OpenAPI document tells of."""
    url = "/openapi.json" if settings.gateway.publish_openapi else None
    bound_bytes = settings.gateway.max_upload_bytes
    app = App(title=TITLE, docs_url=None, redoc_url=None, openapi_url=url, routes=list(_routes(bound_bytes)))
    app.openapi = partial(_document, bound_bytes)
    return app


@cache
def _routes(max_upload_bytes: int) -> tuple[BaseRoute, ...]:
    """What FastAPI makes of the routes' signatures is the same in each application of a process, and takes 0.2 s: they share it."""
    router = APIRouter(responses=REFUSED)
    for api in _APIS:
        router.include_router(api.router)
    for api in (files, uploads):
        router.include_router(api.router, max_body_size=max_upload_bytes + files.FRAME_BYTES)
    return tuple(router.routes)


@cache
def _document(max_upload_bytes: int) -> dict[str, Any]:
    return describe(list(_routes(max_upload_bytes)))
