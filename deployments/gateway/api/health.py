"""Liveness and readiness."""

import asyncio
import time
from collections.abc import Awaitable
from typing import Any

import msgspec
from fastapi import APIRouter, Response
from redis.exceptions import RedisError
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from deployments.core.errors import HeadraceError
from deployments.gateway.bodies import BodyRoute
from deployments.gateway.context import Context, Parts
from deployments.gateway.shapes import Alive, Readiness, gives

router = APIRouter(route_class=BodyRoute)

_PATIENCE_S = 3


@router.get("/health", responses=gives(Alive))
async def alive() -> dict[str, str]:
    """The gateway answers."""
    return {"status": "ok"}


@router.get("/health/ready", response_class=Response, responses=gives(Readiness) | {503: {"model": Readiness}})
async def ready(parts: Parts) -> Response:
    """200 when a question could be answered now, else 503; says how each part stands, in milliseconds."""
    checks = {"sql": _sql(parts), "valkey": parts.hub.ready(_PATIENCE_S)}
    checks |= {stage.name: stage.ping() for stage in parts.stages.all}
    states = dict(zip(checks, await asyncio.gather(*(_timed(check) for check in checks.values())), strict=True))
    fine = all(state["ok"] for state in states.values())
    body = msgspec.json.encode({"status": "ok" if fine else "unavailable", "parts": states})
    return Response(body, 200 if fine else 503, media_type="application/json")


async def _sql(parts: Context) -> None:
    async with parts.store.session() as session:
        await session.execute(text("SELECT 1"))


async def _timed(check: Awaitable[object]) -> dict[str, Any]:
    started = time.perf_counter()
    try:
        async with asyncio.timeout(_PATIENCE_S):
            await check
    except (HeadraceError, TimeoutError, SQLAlchemyError, RedisError, OSError) as error:
        return {"ok": False, "reason": type(error).__name__}
    return {"ok": True, "ms": round((time.perf_counter() - started) * 1000, 1)}
