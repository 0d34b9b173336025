"""/admin/ops: how things are now, without anything that gathers metrics."""

import logging
from contextlib import suppress
from typing import Any

import msgspec
from fastapi import APIRouter

from deployments.core.errors import HeadraceError
from deployments.gateway.accounts import Ops
from deployments.gateway.board import Board, Stage
from deployments.gateway.bodies import BodyRoute
from deployments.gateway.context import Admin, Parts
from deployments.gateway.lately import KEPT_S
from deployments.gateway.shapes import gives

router = APIRouter(prefix="/admin/ops", route_class=BodyRoute)

_logger = logging.getLogger("headrace.ops")


@router.get("", responses=gives(Ops))
async def now(parts: Parts, caller: Admin) -> dict[str, Any]:
    """The stages and the queue, which are everybody's; and what the gateway that answers has seen within the last minute."""
    queue = None
    with suppress(HeadraceError):
        load = await parts.gate.look()
        queue = {"running": load.running, "waiting": load.waiting, "limit": load.limit}
    return {
        "object": "ops",
        "stages": await _stages(parts.board),
        "queue": queue,
        "gateway": parts.name,
        "window_s": KEPT_S,
        "answers": msgspec.to_builtins(parts.lately.answers),
        "caches": msgspec.to_builtins(parts.lately.caches),
        "open": {"answers": len(parts.outbox.writers), "streams": parts.hub.followed, "sockets": len(parts.sockets)},
    }


async def _stages(board: Board | None) -> list[dict[str, Any]] | None:
    """None where nobody knows."""
    try:
        found: list[Stage] = await board.stages() if board else []
    except Exception:
        _logger.warning("Serve does not say how its stages stand", exc_info=True)
        return None
    return msgspec.to_builtins(found) if board else None
