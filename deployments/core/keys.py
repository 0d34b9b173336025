"""API keys and browser sessions: made once, shown once, kept as digests."""

import hmac
import re
import secrets
from collections.abc import Sequence
from typing import Annotated, Literal, get_args

import msgspec
from pydantic import StringConstraints
from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from deployments.core.derived import Derived
from deployments.core.errors import InvalidRequest, Unauthenticated
from deployments.core.grants import INVALID, PREFIX_CHARS, Grants
from deployments.core.ids import checked, found, new_id
from deployments.core.limits import Limits, Policy
from deployments.core.store import Store
from deployments.core.tables import KeyRow, SessionRow, TenantRow
from deployments.core.tenants import Tenant, Tenants, Terms
from deployments.core.tools import TOOL_SCOPE
from deployments.core.types import Principal

_MAX_CHARS = 256
"""No key is longer; what is longer is refused unread."""

_SYSTEM = "system"
"""Who acts where nobody is named: the installation itself."""

_Fixed = Literal["chat", "files:read", "files:write", "tokens:mint", "admin"]
SCOPES: tuple[str, ...] = get_args(_Fixed)
"""What a key may be for, beside the tools that it may use."""

ScopeName = _Fixed | Annotated[str, StringConstraints(pattern=TOOL_SCOPE)]
"""A scope; those of tools are named in the settings, each `tools:` and a word."""


def is_scope(name: str) -> bool:
    """Whether a key may have a scope of that name."""
    return name in SCOPES or re.fullmatch(TOOL_SCOPE, name) is not None


class NewKey(msgspec.Struct, frozen=True):
    """A key at the only moment it can be read."""

    id: str
    secret: str


class Key(msgspec.Struct, frozen=True):
    """A key as an administrator sees it."""

    id: str
    tenant: str
    prefix: str
    name: str
    scopes: list[str]
    created_at: int
    expires_at: int | None
    revoked: bool
    limits: Limits
    models: list[str] | None


class Keys:
    """Makes and verifies keys. A verified key is trusted for `cache_s` seconds without asking SQL."""

    def __init__(self, store: Store, pepper: bytes, cache_s: float = 0, session_ttl_s: int = 3600):
        self._store = store
        self._derived = Derived(pepper)
        self._session_ttl_s = session_ttl_s
        self.grants = Grants(store, cache_s)

    async def add_tenant(self, name: str, tenant_id: str | None = None) -> str:
        """Make a tenant; returns its id."""
        return (await Tenants(self._store, _SYSTEM).add(Terms(name=name), tenant_id)).id

    async def mint(
        self,
        tenant: str,
        scopes: Sequence[str],
        *,
        expires_at: int | None = None,
        name: str = "",
        limits: Limits | None = None,
        models: Sequence[str] | None = None,
        actor: str = _SYSTEM,
    ) -> NewKey:
        """Make a key of a tenant; `name` says what it is for. Raises NotFound where there is no such tenant."""
        fields = {"limits": msgspec.to_builtins(limits) if limits else None, "models": None if models is None else list(models)}
        row, secret = self._row(tenant, scopes=list(scopes), expires_at=expires_at, name=name, **fields)
        async with self._store.write() as session:
            found(await session.get(TenantRow, checked("tenant", tenant)), "tenant", tenant)
            await self._add(session, row, actor, "key.minted", scopes=row.scopes, expires_at=expires_at)
        return NewKey(row.id, secret)

    async def rotate(self, key_id: str, overlap_s: int, actor: str = _SYSTEM) -> NewKey:
        """Make a key that may do the same; the old one ends `overlap_s` seconds from now. Raises NotFound, InvalidRequest."""
        now = int(self._store.clock())
        async with self._store.write() as session:
            old = await _locked(session, key_id)
            if old.revoked or (old.expires_at is not None and old.expires_at <= now):
                raise InvalidRequest("this key has ended; make a new one", code="key_ended")
            same = {"scopes": old.scopes, "expires_at": old.expires_at, "name": old.name, "limits": old.limits, "models": old.models}
            row, secret = self._row(old.tenant_id, **same)
            old.expires_at = min(now + overlap_s, old.expires_at or now + overlap_s)
            await self._add(session, row, actor, "key.rotated", replaces=old.id, overlap_s=overlap_s)
        return NewKey(row.id, secret)

    async def revoke(self, key_id: str, actor: str = _SYSTEM) -> None:
        """End a key; its last request is accepted at most `cache_s` later. Raises NotFound."""
        async with self._store.write() as session:
            await self._end(session, await _locked(session, key_id), actor)

    async def revoke_named(self, tenant: str, name: str, actor: str = _SYSTEM) -> None:
        """End every key of a tenant that has that name."""
        named = select(KeyRow).where(KeyRow.tenant_id == tenant, KeyRow.name == name, ~KeyRow.revoked).order_by(KeyRow.id)
        async with self._store.write() as session:
            for row in list(await session.scalars(named.with_for_update())):
                await self._end(session, row, actor)

    async def list(self, tenant: str) -> list[Key]:
        """The keys of a tenant, oldest first; raises NotFound where there is no such tenant."""
        async with self._store.session() as session:
            found(await session.get(TenantRow, checked("tenant", tenant)), "tenant", tenant)
            return [_key(row) for row in await session.scalars(select(KeyRow).where(KeyRow.tenant_id == tenant).order_by(KeyRow.id))]

    async def get(self, key_id: str) -> Key:
        """One key; raises NotFound."""
        async with self._store.session() as session:
            return _key(found(await session.get(KeyRow, checked("key", key_id)), "key", key_id))

    async def has_tenant(self, tenant: str) -> bool:
        """Whether there is such a tenant."""
        async with self._store.session() as session:
            return await session.get(TenantRow, tenant) is not None

    async def verify(self, secret: str) -> Principal:
        """Who that key speaks for; raises Unauthenticated or TenantSuspended."""
        if not _sound(secret):
            raise Unauthenticated(INVALID)
        grant = await self.grants.of_secret(secret)
        if grant is None or not grant.matches(_digest(self._derived.api_keys, secret)):
            raise Unauthenticated(INVALID)
        return grant.principal(self._store.clock())

    async def standing(self, key_id: str, *, fresh: bool = False) -> Principal:
        """Who a key speaks for that was proved before; raises Unauthenticated or TenantSuspended. `fresh` asks SQL at once."""
        if (grant := await self.grants.of_key(key_id, fresh=fresh)) is None:
            raise Unauthenticated(INVALID)
        return grant.principal(self._store.clock())

    async def policy(self, principal: Principal) -> Policy:
        """The limits of a verified principal."""
        return await self.grants.policy(principal)

    async def tenant(self, principal: Principal) -> Tenant:
        """The tenant of a verified principal; raises NotFound where it is gone."""
        return found(await self.grants.tenant(principal.tenant), "tenant", principal.tenant)

    async def open_session(self, principal: Principal) -> str:
        """Open a browser session with that principal's key; returns the cookie's value."""
        cookie = secrets.token_urlsafe(32)
        now = int(self._store.clock())
        digest = _digest(self._derived.browser_sessions, cookie)
        async with self._store.write() as session:
            await session.execute(delete(SessionRow).where(SessionRow.expires_at < now))
            session.add(SessionRow(digest=digest, key_id=principal.key_id, expires_at=now + self._session_ttl_s))
            await session.flush()
            await self._store.audit.append(session, principal.key_id, "session.opened", principal.tenant, principal.key_id)
        return cookie

    async def resume_session(self, cookie: str) -> Principal:
        """Who opened that session; raises Unauthenticated when it or its key has ended, or TenantSuspended."""
        if not _sound(cookie):
            raise Unauthenticated("there is no session")
        digest, now = _digest(self._derived.browser_sessions, cookie), int(self._store.clock())
        async with self._store.session() as session:
            key_id = await session.scalar(select(SessionRow.key_id).where(SessionRow.digest == digest, SessionRow.expires_at > now))
        if key_id is None:
            raise Unauthenticated("there is no session")
        return await self.standing(key_id, fresh=True)

    def _row(self, tenant: str, **fields: object) -> tuple[KeyRow, str]:
        """A new key and its secret."""
        secret = f"hr_{secrets.token_urlsafe(32)}"
        digest, made = _digest(self._derived.api_keys, secret), int(self._store.clock())
        made_of = {"id": new_id("key_"), "tenant_id": tenant, "prefix": secret[:PREFIX_CHARS], "created_at": made, "revoked": False}
        return KeyRow(**made_of, digest=digest, **fields), secret

    async def _add(self, session: AsyncSession, row: KeyRow, actor: str, act: str, **detail: object) -> None:
        session.add(row)
        await session.flush()
        await self._store.audit.append(session, actor, act, row.tenant_id, row.id, name=row.name, **detail)

    async def _end(self, session: AsyncSession, row: KeyRow, actor: str) -> None:
        row.revoked = True
        await session.flush()
        await self._store.audit.append(session, actor, "key.revoked", row.tenant_id, row.id, name=row.name)


async def _locked(session: AsyncSession, key_id: str) -> KeyRow:
    """A key that nobody else changes meanwhile; raises NotFound."""
    return found(await session.get(KeyRow, checked("key", key_id), with_for_update=True), "key", key_id)


def _digest(key: bytes, secret: str) -> bytes:
    return hmac.digest(key, secret.encode(), "sha256")


def _sound(secret: str) -> bool:
    return 0 < len(secret) <= _MAX_CHARS and secret.isascii() and secret.isprintable()


def _key(row: KeyRow) -> Key:
    limits = msgspec.convert(row.limits or {}, Limits)
    return Key(row.id, row.tenant_id, row.prefix, row.name, row.scopes, row.created_at, row.expires_at, row.revoked, limits, row.models)
