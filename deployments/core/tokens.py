"""Short-lived tokens (JWT, RFC 7519): ours, bound to the key that minted them, and those of an outside issuer.

A token's header chooses between the two by its algorithm alone: HS256 is checked with our own derived key, anything else with the
issuer's public keys, each bound to one algorithm. No key ever serves both, so one can not be taken for the other.
"""

import hashlib
import secrets
from typing import Any, Literal

import jwt
import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from deployments.core import config
from deployments.core.derived import Derived
from deployments.core.errors import Forbidden, Overloaded, Unauthenticated
from deployments.core.grants import active, narrowed
from deployments.core.ids import is_id
from deployments.core.jwks import KeySet
from deployments.core.keys import Keys
from deployments.core.store import Store
from deployments.core.tenants import Tenant
from deployments.core.types import Principal

MAX_TTL_S = 3600
TICKET_TTL_S = 30

_MAX_CHARS = 8192
_SKEW_S = 5
"""How far the clock of an issuer may be ahead of ours."""

_NAME = "headrace"
_PRIVILEGES = {"admin", "tokens:mint"}
"""What only a key may do: a token that mints tokens would never end."""

_OUTSIDE = "sub_"
"""Begins the names of those whom the issuer vouches for, in place of a key's."""

Kind = Literal["session", "ticket"]

_INVALID = "the token is not valid, or has ended"


class Claims(msgspec.Struct, frozen=True):
    """What a token of ours says; `key` is the id of the key that minted it."""

    iss: str
    aud: str
    sub: str
    key: str
    scope: str
    iat: int
    exp: int
    jti: str


class Times(msgspec.Struct, frozen=True):
    """When a token is good, in Unix seconds."""

    exp: int | float
    nbf: int | float = 0
    iat: int | float = 0


class Minted(msgspec.Struct, frozen=True):
    """A token at the only moment we hold it."""

    token: str
    expires_at: int


class Tokens:
    """Mints and verifies tokens."""

    def __init__(self, store: Store, keys: Keys, pepper: bytes, valkey: Redis, issuer: config.Issuer):
        self._store, self._keys, self._valkey, self._issuer = store, keys, valkey, issuer
        derived = Derived(pepper)
        self._secrets: dict[Kind, bytes] = {"session": derived.session_tokens, "ticket": derived.socket_tickets}
        self._public = KeySet(issuer, store.clock)

    async def mint(self, caller: Principal, user: str, scopes: frozenset[str], ttl_s: int, kind: Kind = "session") -> Minted:
        """A token for a user of the caller's, which ends with the caller's key; raises Forbidden for more than the caller may do."""
        if extra := sorted(scopes - (caller.scopes - _PRIVILEGES)):
            raise Forbidden(f"a token can not get the scope '{extra[0]}' from this key", param="scopes")
        await self._keys.standing(caller.key_id)
        now = int(self._store.clock())
        expires_at = now + min(ttl_s, MAX_TTL_S if kind == "session" else TICKET_TTL_S)
        claims = Claims(_NAME, _audience(kind), user, caller.key_id, " ".join(sorted(scopes)), now, expires_at, secrets.token_hex(16))
        token = jwt.encode(msgspec.to_builtins(claims), self._secrets[kind], "HS256", {"kid": kind})
        async with self._store.write() as session:
            detail = {"user": user, "scopes": sorted(scopes), "expires_at": expires_at}
            await self._store.audit.append(session, caller.key_id, f"{kind}.minted", caller.tenant, claims.jti, **detail)
        return Minted(token, expires_at)

    async def verify(self, token: str) -> Principal:
        """Who a session token, ours or the issuer's, speaks for; raises Unauthenticated, TenantSuspended or Overloaded."""
        header = _header(token)
        if header.get("alg") != "HS256":
            return await self._outside(token, header.get("kid"))
        return await self._bearer(self._claims(token, "session"))

    async def redeem(self, ticket: str) -> Principal:
        """Who a ticket speaks for, once; raises Unauthenticated, TenantSuspended, or Overloaded while Valkey is away."""
        _header(ticket)
        claims = self._claims(ticket, "ticket")
        caller = await self._bearer(claims)
        try:
            first = await self._valkey.set(f"hr:{{{caller.tenant}}}:ticket:{claims.jti}", b"", nx=True, ex=2 * TICKET_TTL_S)
        except (RedisError, OSError):
            raise Overloaded("whether this ticket was used can not be told now", retry_after_s=1) from None
        if not first:
            raise Unauthenticated("the ticket has been used")
        return caller

    async def still(self, caller: Principal) -> Principal:
        """A caller that was proved before, with what its key may still do; raises Unauthenticated or TenantSuspended.

        One whom the issuer named has no key of ours: its tenant must stand.
        """
        if caller.key_id.startswith(_OUTSIDE):
            await self._owner(caller.tenant)
            return caller
        now = await self._keys.standing(caller.key_id)
        return msgspec.structs.replace(now, user=caller.user, scopes=now.scopes & caller.scopes)

    async def _bearer(self, claims: Claims) -> Principal:
        """Who a token of ours speaks for while its key stands, with what the key may still do."""
        caller = await self._keys.standing(claims.key)
        return msgspec.structs.replace(caller, user=claims.sub, scopes=(caller.scopes - _PRIVILEGES) & frozenset(claims.scope.split()))

    def _claims(self, token: str, kind: Kind) -> Claims:
        payload = self._payload(token, self._secrets[kind], ["HS256"], _audience(kind), _NAME)
        return msgspec.convert(payload, Claims)

    async def _outside(self, token: str, kid: object) -> Principal:
        """Who a token of the issuer's speaks for, as far as we let it say so."""
        if not self._issuer.jwks or not isinstance(kid, str | None) or (key := await self._public.key(kid)) is None:
            raise Unauthenticated(_INVALID)
        issuer = self._issuer
        payload = self._payload(token, key, list(issuer.algorithms), issuer.audience, issuer.name)
        tenant, user = payload.get(issuer.tenant_claim), payload.get(issuer.user_claim)
        if not isinstance(tenant, str) or not isinstance(user, str) or not 0 < len(user) <= 200 or not user.isprintable():
            raise Unauthenticated(_INVALID)
        owner = await self._owner(tenant)
        models = payload.get(issuer.models_claim)
        narrow = narrowed(owner.models, None if models is None else _words(models))
        scopes = frozenset(issuer.scopes) & _words(payload.get(issuer.scopes_claim))
        named = hashlib.sha256(f"{issuer.name}\0{user}".encode()).hexdigest()
        return Principal(owner.id, f"{_OUTSIDE}{named[:32]}", scopes, user, narrow)

    async def _owner(self, tenant: str) -> Tenant:
        """The tenant of that name; raises Unauthenticated where there is none, or TenantSuspended."""
        owner = await self._keys.grants.tenant(tenant) if is_id(tenant) else None
        if owner is None:
            raise Unauthenticated(_INVALID)
        return active(owner)

    def _payload(self, token: str, key: bytes | jwt.PyJWK, algorithms: list[str], audience: str, issuer: str) -> dict[str, Any]:
        """The claims of a token that is signed, meant for us and in time; the time is our clock's, so it is looked at here."""
        options: Any = {"verify_exp": False, "verify_nbf": False, "verify_iat": False, "require": ["exp", "iss", "aud"]}
        options["enforce_minimum_key_length"] = True
        try:
            payload = jwt.decode(token, key, algorithms, options, audience=audience, issuer=issuer)
            times = msgspec.convert(payload, Times)
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise Unauthenticated(_INVALID) from None
        now = self._store.clock()
        if not (max(times.nbf, times.iat) - _SKEW_S <= now < times.exp):
            raise Unauthenticated(_INVALID)
        return payload


def is_ticket(token: str) -> bool:
    """Whether a token says that it is a ticket; raises Unauthenticated for what is no token."""
    return _header(token).get("kid") == "ticket"


def is_token(secret: str) -> bool:
    """Whether something sent in place of a key has the form of a token; no key has."""
    return secret.count(".") == 2


def _header(token: str) -> dict[str, Any]:
    """The header as the token claims it; raises Unauthenticated for what is no token."""
    if len(token) > _MAX_CHARS or not token.isascii():
        raise Unauthenticated(_INVALID)
    try:
        return jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, RecursionError):
        raise Unauthenticated(_INVALID) from None


def _audience(kind: Kind) -> str:
    return f"{_NAME}:{kind}"


def _words(claim: object) -> frozenset[str]:
    """A claim that is a list of texts, or one text with spaces; of anything else nothing."""
    if isinstance(claim, str):
        return frozenset(claim.split())
    return frozenset(word for word in claim if isinstance(word, str)) if isinstance(claim, list) else frozenset()
