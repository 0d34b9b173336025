"""The HTTP application: its routes, and how its errors look. It knows nothing of Ray."""

from contextlib import asynccontextmanager
from functools import cache

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from deployments.core.config import Settings
from deployments.core.errors import HeadraceError
from deployments.gateway import envelope
from deployments.gateway.api import (
    chat_completions,
    completions,
    conversations,
    documents,
    embeddings,
    files,
    health,
    models,
    responses,
    sockets,
    vector_stores,
)
from deployments.gateway.context import App, Context
from deployments.gateway.cors import Cors
from deployments.gateway.middleware import BodyBound, Hosts
from deployments.gateway.openapi import REFUSED, TITLE, describe

_APIS = (chat_completions, completions, responses, sockets, conversations, embeddings, models, vector_stores, documents, health)


def build_app(context: Context) -> App:
    """The application over a context; its lifespan starts and closes the follower hub."""

    @asynccontextmanager
    async def lifespan(app: App):
        context.hub.start()
        context.gate.start()
        yield
        await context.gate.close()
        await context.hub.close()
        await context.outbox.close()
        await context.store.close()

    app = routed(context.settings)
    app.router.lifespan_context = lifespan
    app.context = context
    app.add_exception_handler(HeadraceError, envelope.on_headrace_error)
    app.add_exception_handler(RequestValidationError, envelope.on_invalid)
    app.add_exception_handler(HTTPException, envelope.on_http)
    app.add_exception_handler(Exception, envelope.on_anything)
    limits = context.settings.gateway
    app.add_middleware(BodyBound, max_body_bytes=limits.max_body_bytes, max_upload_bytes=limits.max_upload_bytes)
    if limits.origins:
        app.add_middleware(Cors, origins=limits.origins)
    if limits.hosts:
        app.add_middleware(Hosts, hosts=limits.hosts)
    return app


def routed(settings: Settings) -> App:
    """The routes alone, which is all that the OpenAPI document tells of."""
    url = "/openapi.json" if settings.gateway.publish_openapi else None
    app = App(title=TITLE, docs_url=None, redoc_url=None, openapi_url=url, responses=REFUSED)
    for api in _APIS:
        app.include_router(api.router)
    app.include_router(files.router, max_body_size=settings.gateway.max_upload_bytes + files.FRAME_BYTES)
    app.openapi = cache(lambda: describe(app.routes))
    return app
