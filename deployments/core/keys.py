"""API keys and browser sessions: made once, shown once, kept as digests."""

import hashlib
import hmac
import secrets

import msgspec
from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from deployments.core.errors import Unauthenticated
from deployments.core.ids import new_id
from deployments.core.limits import Policy
from deployments.core.store import Store
from deployments.core.tables import KeyRow, SessionRow, TenantRow
from deployments.core.types import Principal

_PREFIX_CHARS = 15
"""`hr_` and the first twelve characters: enough to find the key, nothing to guess the rest from."""

_MAX_CHARS = 256
"""No key is longer; what is longer is refused unread."""

_MAX_CACHED = 10_000
"""Verified keys a process remembers."""

_INVALID = "the API key is not valid; send it as 'Authorization: Bearer hr_…'"


class NewKey(msgspec.Struct, frozen=True):
    """A key at the only moment it can be read."""

    id: str
    secret: str


class Keys:
    """Makes and verifies keys. A verified key is trusted for `cache_s` seconds without asking SQL."""

    def __init__(self, store: Store, pepper: bytes, cache_s: float = 0, session_ttl_s: int = 3600):
        self._store = store
        self._pepper = pepper
        self._cache_s = cache_s
        self._session_ttl_s = session_ttl_s
        self._verified: dict[bytes, tuple[float, Principal]] = {}

    async def add_tenant(self, name: str, tenant_id: str | None = None) -> str:
        """Make a tenant; returns its id."""
        tenant_id = tenant_id or new_id("ten_")
        row = TenantRow(id=tenant_id, name=name, created_at=int(self._store.clock()), key=self._store.vault.new_key(tenant_id))
        async with self._store.write() as session:
            session.add(row)
        return row.id

    async def mint(
        self, tenant: str, scopes: list[str], secret: str | None = None, expires_at: int | None = None, name: str = ""
    ) -> NewKey:
        """Make a key of a tenant; `name` says what it is for."""
        secret = secret or f"hr_{secrets.token_urlsafe(32)}"
        row = KeyRow(
            id=new_id("key_"),
            tenant_id=tenant,
            prefix=secret[:_PREFIX_CHARS],
            digest=self._digest("key", secret),
            name=name,
            scopes=scopes,
            created_at=int(self._store.clock()),
            expires_at=expires_at,
            revoked=False,
        )
        async with self._store.write() as session:
            session.add(row)
        return NewKey(row.id, secret)

    async def revoke(self, key_id: str) -> None:
        """End a key; its last request is accepted at most `cache_s` later."""
        async with self._store.write() as session:
            await session.execute(update(KeyRow).where(KeyRow.id == key_id).values(revoked=True))

    async def revoke_named(self, tenant: str, name: str) -> None:
        """End every key of a tenant that has that name."""
        async with self._store.write() as session:
            await session.execute(update(KeyRow).where(KeyRow.tenant_id == tenant, KeyRow.name == name).values(revoked=True))

    async def has_tenant(self, tenant: str) -> bool:
        """Whether there is such a tenant."""
        async with self._store.session() as session:
            return await session.get(TenantRow, tenant) is not None

    async def verify(self, secret: str) -> Principal:
        """Who that key speaks for; raises Unauthenticated."""
        if not _sound(secret):
            raise Unauthenticated(_INVALID)
        digest = self._digest("key", secret)
        now = self._store.clock()
        if (known := self._verified.get(digest)) and 0 <= now - known[0] < self._cache_s:
            return known[1]
        async with self._store.session() as session:
            row = await session.scalar(select(KeyRow).where(KeyRow.prefix == secret[:_PREFIX_CHARS]))
        principal = _principal(row, digest, now)
        if len(self._verified) >= _MAX_CACHED:
            self._verified.clear()
        self._verified[digest] = (now, principal)
        return principal

    async def policy(self, principal: Principal) -> Policy:
        """The limits of a verified principal."""
        return Policy()

    async def open_session(self, principal: Principal) -> str:
        """Open a browser session with that principal's key; returns the cookie's value."""
        cookie = secrets.token_urlsafe(32)
        now = int(self._store.clock())
        async with self._store.write() as session:
            await session.execute(delete(SessionRow).where(SessionRow.expires_at < now))
            session.add(SessionRow(digest=self._digest("session", cookie), key_id=principal.key_id, expires_at=now + self._session_ttl_s))
        return cookie

    async def resume_session(self, cookie: str) -> Principal:
        """Who opened that session; raises Unauthenticated when it or its key has ended."""
        if not _sound(cookie):
            raise Unauthenticated("there is no session")
        now = self._store.clock()
        async with self._store.session() as session:
            row = await self._session_key(session, self._digest("session", cookie), int(now))
        return _principal(row, row.digest if row else b"", now)

    @staticmethod
    async def _session_key(session: AsyncSession, digest: bytes, now: int) -> KeyRow | None:
        live = (SessionRow.digest == digest) & (SessionRow.expires_at > now)
        return await session.scalar(select(KeyRow).join(SessionRow, SessionRow.key_id == KeyRow.id).where(live))

    def _digest(self, purpose: str, secret: str) -> bytes:
        return hmac.new(self._pepper, f"{purpose}:{secret}".encode(), hashlib.sha256).digest()


def _sound(secret: str) -> bool:
    return 0 < len(secret) <= _MAX_CHARS and secret.isascii() and secret.isprintable()


def _principal(row: KeyRow | None, digest: bytes, now: float) -> Principal:
    ended = row is None or row.revoked or (row.expires_at is not None and row.expires_at <= now)
    if row is None or not hmac.compare_digest(row.digest, digest) or ended:
        raise Unauthenticated(_INVALID)
    return Principal(row.tenant_id, row.id, frozenset(row.scopes))
