"""POST /v1/session_tokens: short-lived tokens that a caller's server mints for its users' browsers."""

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from deployments.core.keys import ScopeName
from deployments.core.tokens import MAX_TTL_S, Kind
from deployments.gateway.accounts import SessionToken
from deployments.gateway.bodies import BodyRoute
from deployments.gateway.context import Mints, Parts
from deployments.gateway.shapes import gives

router = APIRouter(route_class=BodyRoute)


class TokenRequest(BaseModel):
    """A token to mint: for a user of the caller's own naming, with some of the caller's scopes."""

    model_config = ConfigDict(extra="forbid")

    user: Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[\x21-\x7e]*$")]
    scopes: list[ScopeName] = Field(default=["chat"], min_length=1, max_length=8)
    ttl_s: int = Field(default=600, ge=1, le=MAX_TTL_S)
    kind: Kind = "session"


@router.post("/v1/session_tokens", responses=gives(SessionToken))
async def create(body: TokenRequest, parts: Parts, caller: Mints) -> dict[str, Any]:
    """Mint a session token (an hour at most), or a ticket that opens one WebSocket within 30 seconds."""
    made = await parts.tokens.mint(caller, body.user, frozenset(body.scopes), body.ttl_s, body.kind)
    shown = {"object": "session_token", "kind": body.kind, "token": made.token, "expires_at": made.expires_at}
    return shown | {"user": body.user, "scopes": sorted(set(body.scopes)), "single_use": body.kind == "ticket"}
