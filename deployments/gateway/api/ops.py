"""/admin/ops: how things are now, without anything that gathers metrics."""

from contextlib import suppress
from typing import Any

import msgspec
from fastapi import APIRouter

from deployments.core.errors import HeadraceError
from deployments.gateway.accounts import Ops
from deployments.gateway.bodies import BodyRoute
from deployments.gateway.context import Admin, Parts
from deployments.gateway.lately import KEPT_S
from deployments.gateway.shapes import gives

router = APIRouter(prefix="/admin/ops", route_class=BodyRoute)


@router.get("", responses=gives(Ops))
async def now(parts: Parts, caller: Admin) -> dict[str, Any]:
    """The stages and the queue, which are everybody's; and what the gateway that answers has seen within the last minute."""
    queue = None
    with suppress(HeadraceError):
        load = await parts.gate.look()
        queue = {"running": load.running, "waiting": load.waiting, "limit": load.limit}
    return {
        "object": "ops",
        "stages": msgspec.to_builtins(await parts.board.stages()) if parts.board else None,
        "queue": queue,
        "gateway": parts.name,
        "window_s": KEPT_S,
        "answers": msgspec.to_builtins(parts.lately.answers),
        "caches": msgspec.to_builtins(parts.lately.caches),
        "open": {"answers": len(parts.outbox.writers), "streams": parts.hub.followed, "sockets": len(parts.sockets)},
    }
