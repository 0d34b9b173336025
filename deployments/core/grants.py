"""What keys and tenants may do at this moment, read from SQL and trusted for no longer than the cache says."""

import hmac
from collections.abc import Iterable

import msgspec
from sqlalchemy import ColumnElement, select

from deployments.core.errors import TenantSuspended, Unauthenticated
from deployments.core.limits import Limits, Policy
from deployments.core.recent import Recent
from deployments.core.store import Store
from deployments.core.tables import KeyRow, TenantRow
from deployments.core.tenants import Tenant, tenant_of
from deployments.core.types import Principal

PREFIX_CHARS = 15
"""`hr_` and the first twelve characters: enough to find the key, nothing to guess the rest from."""

INVALID = "the API key is not valid; send it as 'Authorization: Bearer hr_…'"


class Grant(msgspec.Struct, frozen=True):
    """A key and its tenant as they stood when they were read; `ends_at` is when the key was revoked or expires."""

    key_id: str
    prefix: str
    digest: bytes
    scopes: frozenset[str]
    models: frozenset[str] | None
    limits: Limits
    expires_at: int | None
    revoked: bool
    tenant: Tenant

    def principal(self, now: float) -> Principal:
        """Who the key speaks for; raises Unauthenticated where it has ended, TenantSuspended where its tenant is stopped."""
        if self.revoked or (self.expires_at is not None and self.expires_at <= now):
            raise Unauthenticated(INVALID)
        return Principal(active(self.tenant).id, self.key_id, self.scopes, models=narrowed(self.tenant.models, self.models))

    def matches(self, digest: bytes) -> bool:
        """Whether the secret of that digest is this key's, told in constant time."""
        return hmac.compare_digest(self.digest, digest)


class Grants:
    """Reads grants; one that was read less than `cache_s` seconds ago is used again, a key that is not there is always looked for."""

    def __init__(self, store: Store, cache_s: float):
        self._store = store
        self._by_prefix = Recent[str, Grant](cache_s, store.clock)
        self._by_id = Recent[str, Grant](cache_s, store.clock)
        self._tenants = Recent[str, Tenant](cache_s, store.clock)

    async def of_secret(self, secret: str) -> Grant | None:
        """The grant of the key that begins as this secret does."""
        prefix = secret[:PREFIX_CHARS]
        return self._by_prefix.get(prefix) or await self._read(KeyRow.prefix == prefix)

    def known(self, secret: str) -> str | None:
        """The id of the key that begins as this secret does, where it has just been read."""
        grant = self._by_prefix.get(secret[:PREFIX_CHARS])
        return grant.key_id if grant else None

    async def of_key(self, key_id: str, *, fresh: bool = False) -> Grant | None:
        """The grant of a key by its id; `fresh` does not use what was read before."""
        known = None if fresh else self._by_id.get(key_id)
        return known or await self._read(KeyRow.id == key_id)

    async def tenant(self, name: str) -> Tenant | None:
        """A tenant as it stands."""
        if known := self._tenants.get(name):
            return known
        now = self._store.clock()
        async with self._store.session() as session:
            row = await session.get(TenantRow, name)
        return self._tenants.put(name, tenant_of(row), now) if row else None

    async def policy(self, principal: Principal) -> Policy:
        """What admission goes by; a principal without a key of ours has the tenant's limits alone."""
        grant = await self.of_key(principal.key_id)
        tenant = grant.tenant if grant else await self.tenant(principal.tenant)
        if tenant is None:
            return Policy()
        return Policy(tenant.limits, grant.limits if grant else Limits(), tenant.weight, tenant.cache, tenant.threshold)

    async def _read(self, which: ColumnElement[bool]) -> Grant | None:
        now = self._store.clock()  # before the read, so that what is trusted is never older than it may be
        async with self._store.session() as session:
            rows = (await session.execute(select(KeyRow, TenantRow).join(TenantRow).where(which))).one_or_none()
        if rows is None:
            return None
        grant = _grant(*rows)
        self._by_prefix.put(grant.prefix, grant, now)
        self._tenants.put(grant.tenant.id, grant.tenant, now)
        return self._by_id.put(grant.key_id, grant, now)


def active(tenant: Tenant) -> Tenant:
    """The tenant; raises TenantSuspended."""
    if tenant.suspended_at is not None:
        raise TenantSuspended("this tenant has been suspended; ask who runs this service")
    return tenant


def narrowed(outer: frozenset[str] | None, inner: Iterable[str] | None) -> frozenset[str] | None:
    """The models that both allow, where None allows all."""
    if outer is None or inner is None:
        return outer if inner is None else frozenset(inner)
    return outer & frozenset(inner)


def _grant(key: KeyRow, tenant: TenantRow) -> Grant:
    models = None if key.models is None else frozenset(key.models)
    limits = msgspec.convert(key.limits or {}, Limits)
    return Grant(key.id, key.prefix, key.digest, frozenset(key.scopes), models, limits, key.expires_at, key.revoked, tenant_of(tenant))
