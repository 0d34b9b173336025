"""/admin/usage: what every attempt at a model call came to, by whatever it is asked for."""

from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Query, Response
from starlette.responses import JSONResponse

from deployments.core.ledger import Dimension, Ledger
from deployments.core.sheet import sheet
from deployments.gateway.accounts import LedgerPage
from deployments.gateway.bodies import BodyRoute
from deployments.gateway.context import Admin, Parts
from deployments.gateway.shapes import gives

router = APIRouter(prefix="/admin/usage", route_class=BodyRoute)

_CSV = "text/csv"

By = Annotated[list[Dimension], Query(max_length=9, description="What to take sums by; several may be named.")]


@router.get("", responses=gives(LedgerPage) | {200: {"model": LedgerPage, "content": {_CSV: {"schema": {"type": "string"}}}}})
async def usage(
    parts: Parts,
    caller: Admin,
    by: By = ["day", "tenant", "model"],  # noqa: B006 - FastAPI copies it
    days: Annotated[int, Query(ge=1, le=366, description="So many days back, today included.")] = 31,
    tenant: Annotated[str | None, Query(max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
    format: Annotated[Literal["json", "csv"], Query(description="`csv` for a spreadsheet.")] = "json",
) -> Response:
    """Attempts, tokens and cost of the last days, for each value of some dimensions; a second behind at most."""
    found = await Ledger(parts.store).sums(by, days, limit + 1, tenant)
    if format == "csv":
        headers = {"content-disposition": 'attachment; filename="usage.csv"'}
        return Response(sheet(by, found[:limit]), media_type=_CSV, headers=headers)
    page: dict[str, Any] = {"object": "list", "data": msgspec.to_builtins(found[:limit]), "has_more": len(found) > limit}
    return JSONResponse(page)
