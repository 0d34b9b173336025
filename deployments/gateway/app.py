"""The HTTP application: its routes, and how its errors look. It knows nothing of Ray."""

import asyncio
from contextlib import asynccontextmanager

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from deployments.core.errors import HeadraceError
from deployments.gateway import envelope
from deployments.gateway.api import (
    admin,
    chat_completions,
    completions,
    conversations,
    documents,
    embeddings,
    files,
    health,
    models,
    responses,
    session_tokens,
    sockets,
    vector_stores,
)
from deployments.gateway.context import App, Context
from deployments.gateway.idempotency import Idempotency
from deployments.gateway.middleware import BodyBound
from deployments.gateway.receipt import Receipt
from deployments.gateway.rules import rules

_ANSWERS = (chat_completions, completions, responses, sockets, conversations, embeddings, models)
_APIS = (*_ANSWERS, vector_stores, documents, session_tokens, admin, health)


def build_app(context: Context) -> App:
    """The application over a context; its lifespan starts and closes what runs beside requests. Raises Unguarded."""

    @asynccontextmanager
    async def lifespan(app: App):
        context.hub.start()
        context.gate.start()
        beside = [asyncio.create_task(context.watch.run()), asyncio.create_task(context.refusals.run())]
        yield
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        await context.gate.close()
        await context.hub.close()
        await context.outbox.close()
        await context.store.close()

    app = App(title="headrace", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.context = context
    for api in _APIS:
        app.include_router(api.router)
    app.include_router(files.router, max_body_size=context.settings.gateway.max_upload_bytes + files.FRAME_BYTES)
    rules(app.routes)
    app.add_exception_handler(HeadraceError, envelope.on_headrace_error)
    app.add_exception_handler(RequestValidationError, envelope.on_invalid)
    app.add_exception_handler(HTTPException, envelope.on_http)
    app.add_exception_handler(Exception, envelope.on_anything)
    app.add_middleware(Receipt)
    limits = context.settings.gateway
    app.add_middleware(Idempotency, parts=context)
    app.add_middleware(BodyBound, max_body_bytes=limits.max_body_bytes, max_upload_bytes=limits.max_upload_bytes)
    return app
