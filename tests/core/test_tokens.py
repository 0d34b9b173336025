"""Session tokens and tickets, and tokens of an outside issuer: what is accepted, and every way in which one can be wrong."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from redis.asyncio import Redis

from deployments.core import config
from deployments.core.derived import Derived
from deployments.core.errors import Forbidden, Overloaded, TenantSuspended, Unauthenticated
from deployments.core.jwks import KeySet
from deployments.core.keys import Keys
from deployments.core.store import Store
from deployments.core.tenants import Tenants, Terms
from deployments.core.tokens import Tokens
from deployments.core.types import Principal
from deployments.core.valkey import connect
from tests.fakes import Clock, database

CLOCK = Clock()
ISSUER = "https://id.example"
RSA = rsa.generate_private_key(65537, 2048)
ELLIPTIC = ec.generate_private_key(ec.SECP256R1())
EDWARDS = ed25519.Ed25519PrivateKey.generate()
STRANGER = rsa.generate_private_key(65537, 2048)
SIGNERS = {"RS256": RSA, "ES256": ELLIPTIC, "EdDSA": EDWARDS}


def jwks() -> str:
    made = {
        "RS256": RSAAlgorithm.to_jwk(RSA.public_key(), as_dict=True),
        "ES256": ECAlgorithm.to_jwk(ELLIPTIC.public_key(), as_dict=True),
        "EdDSA": OKPAlgorithm.to_jwk(EDWARDS.public_key(), as_dict=True),
    }
    return json.dumps(
        {"keys": [{"kty": "what"}, {"kty": "oct", "k": "AAAA", "kid": "HS256"}, *({**key, "kid": n} for n, key in made.items())]}
    )


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with database(tmp_path, CLOCK) as store:
        yield store


@pytest.fixture
async def keys(store: Store) -> Keys:
    keys = Keys(store, b"pepper")
    await keys.add_tenant("Acme", "acme")
    return keys


@pytest.fixture
async def caller(keys: Keys) -> Principal:
    return await keys.verify((await keys.mint("acme", ["chat", "files:read", "tokens:mint", "admin"])).secret)


@pytest.fixture
def tokens(store: Store, keys: Keys, valkey: Redis, tmp_path: Path) -> Tokens:
    (tmp_path / "jwks.json").write_text(jwks())
    issuer = config.Issuer(jwks=str(tmp_path / "jwks.json"), name=ISSUER, audience="headrace-here")
    return Tokens(store, keys, b"pepper", valkey, issuer)


async def minted(tokens: Tokens, caller: Principal, **claims: Any) -> str:
    """A session token with other claims, signed as ours are."""
    good = (await tokens.mint(caller, "ann", frozenset({"chat"}), 60)).token
    payload = jwt.decode(good, options={"verify_signature": False}) | claims
    return jwt.encode({k: v for k, v in payload.items() if v is not None}, Derived(b"pepper").session_tokens, "HS256", {"kid": "session"})


def outside(algorithm: str = "RS256", kid: str | None = "", key: Any = None, **claims: Any) -> str:
    now = int(CLOCK())
    payload = {"iss": ISSUER, "aud": "headrace-here", "sub": "bob", "tenant": "acme", "scope": "chat files:read admin", "exp": now + 60}
    payload = {name: value for name, value in (payload | claims).items() if value is not None}
    header = {} if kid is None else {"kid": kid or algorithm}
    return jwt.encode(payload, key or SIGNERS.get(algorithm), algorithm, header)


async def test_a_session_token_is_its_key_for_one_user_with_fewer_scopes(tokens: Tokens, caller: Principal) -> None:
    made = await tokens.mint(caller, "ann", frozenset({"chat"}), 60)
    assert made.expires_at == int(CLOCK()) + 60
    assert await tokens.verify(made.token) == Principal("acme", caller.key_id, frozenset({"chat"}), "ann")


async def test_a_token_ends_by_itself_and_lives_an_hour_at_most(tokens: Tokens, caller: Principal) -> None:
    made = await tokens.mint(caller, "ann", frozenset({"chat"}), 10**6)
    CLOCK.forward(3599)
    assert await tokens.verify(made.token)
    CLOCK.forward(1)
    with pytest.raises(Unauthenticated):
        await tokens.verify(made.token)


@pytest.mark.parametrize("scope", ["files:write", "admin", "tokens:mint"])
async def test_no_token_may_do_more_than_its_key_nor_what_only_a_key_may(tokens: Tokens, caller: Principal, scope: str) -> None:
    with pytest.raises(Forbidden):
        await tokens.mint(caller, "ann", frozenset({"chat", scope}), 60)


async def test_a_token_ends_with_its_key_and_its_tenant(tokens: Tokens, keys: Keys, store: Store, caller: Principal) -> None:
    made = await tokens.mint(caller, "ann", frozenset({"chat"}), 60)
    await Tenants(store, "x").suspend("acme")
    with pytest.raises(TenantSuspended):
        await tokens.verify(made.token)
    await Tenants(store, "x").resume("acme")
    await keys.revoke(caller.key_id)
    with pytest.raises(Unauthenticated):
        await tokens.verify(made.token)


async def test_a_ticket_opens_once(tokens: Tokens, caller: Principal) -> None:
    made = await tokens.mint(caller, "ann", frozenset({"chat"}), 3600, "ticket")
    assert made.expires_at <= int(CLOCK()) + 30
    assert (await tokens.redeem(made.token)).user == "ann"
    with pytest.raises(Unauthenticated):
        await tokens.redeem(made.token)


async def test_a_ticket_is_no_token_and_a_token_is_no_ticket(tokens: Tokens, caller: Principal) -> None:
    with pytest.raises(Unauthenticated):
        await tokens.verify((await tokens.mint(caller, "ann", frozenset({"chat"}), 30, "ticket")).token)
    with pytest.raises(Unauthenticated):
        await tokens.redeem((await tokens.mint(caller, "ann", frozenset({"chat"}), 30)).token)


async def test_without_valkey_no_ticket_opens(store: Store, keys: Keys, caller: Principal) -> None:
    tokens = Tokens(store, keys, b"pepper", connect("unix:///nowhere"), config.Issuer())
    with pytest.raises(Overloaded):
        await tokens.redeem((await tokens.mint(caller, "ann", frozenset({"chat"}), 30, "ticket")).token)


async def test_minting_is_on_record_and_the_token_is_not(tokens: Tokens, store: Store, caller: Principal) -> None:
    made = await tokens.mint(caller, "ann", frozenset({"chat"}), 60)
    entry = (await store.audit.entries())[-1]
    assert (entry.act, entry.actor, entry.tenant, entry.detail["user"]) == ("session.minted", caller.key_id, "acme", "ann")
    assert made.token.rsplit(".", 1)[1] not in repr(entry)


OURS: list[dict[str, Any]] = [
    {"exp": 0},
    {"exp": None},
    {"exp": "soon"},
    {"exp": None, "nbf": 0},
    {"nbf": 2**40},
    {"iat": 2**40},
    {"aud": "other"},
    {"aud": None},
    {"aud": "headrace:ticket"},
    {"iss": "other"},
    {"iss": None},
    {"key": "key_none"},
]


@pytest.mark.parametrize("claims", OURS, ids=str)
async def test_a_token_of_ours_with_a_wrong_claim_is_refused(tokens: Tokens, caller: Principal, claims: dict[str, Any]) -> None:
    assert await tokens.verify(await minted(tokens, caller))
    with pytest.raises(Unauthenticated):
        await tokens.verify(await minted(tokens, caller, **claims))


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
async def test_a_token_of_the_issuer_speaks_for_the_tenant_it_names(tokens: Tokens, algorithm: str) -> None:
    caller = await tokens.verify(outside(algorithm, models=["headrace"]))
    assert (caller.tenant, caller.user, caller.scopes, caller.models) == ("acme", "bob", {"chat", "files:read"}, {"headrace"})
    assert (await tokens.verify(outside(algorithm, scope=["chat", 1]))).scopes == {"chat"}


async def test_the_issuers_users_have_the_tenants_limits_and_a_bucket_of_their_own(tokens: Tokens, keys: Keys, store: Store) -> None:
    await Tenants(store, "x").update("acme", Terms(weight=3, models=["headrace"]))
    bob, eve = await tokens.verify(outside()), await tokens.verify(outside(sub="eve"))
    assert bob.key_id != eve.key_id
    assert (await keys.policy(bob)).weight == 3
    assert bob.models == {"headrace"}
    assert await tokens.still(bob) == bob
    await Tenants(store, "x").suspend("acme")
    for proved in (tokens.verify(outside()), tokens.still(bob)):
        with pytest.raises(TenantSuspended):
            await proved


def pem() -> bytes:
    return RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def hs_with_the_public_key() -> str:
    """What a library would accept that lets the token choose how its own key is read."""
    head = jwt.encode({}, b"x" * 32, "HS256", {"kid": "RS256"}).split(".")[0]
    body = outside().split(".")[1]
    mac = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(f"{head}.{body}".encode(), pem())
    return f"{head}.{body}.{jwt.utils.base64url_encode(mac).decode()}"


def wrong() -> dict[str, str]:
    good = outside()
    head, body, signature = good.split(".")
    nested = jwt.utils.base64url_encode(b'{"alg":' + b"[" * 3000).decode()
    return {
        "none": jwt.encode(jwt.decode(good, options={"verify_signature": False}), None, "none"),
        "None without kid": outside("none", None, None),
        "no signature": f"{head}.{body}.",
        "a signature of something else": f"{head}.{outside(sub='eve').split('.')[1]}.{signature}",
        "HS256 with the public key": hs_with_the_public_key(),
        "a stranger's key": outside(key=STRANGER),
        "a kid of another algorithm": outside("ES256", "RS256"),
        "a kid nobody knows": outside(kid="other"),
        "no kid": outside(kid=None),
        "an algorithm that is not allowed": outside("RS512", "RS256", RSA),
        "a symmetric key of the set": outside("HS256", "HS256", b"\0\0\0" * 11),
        "an embedded key": jwt.encode({"sub": "x"}, STRANGER, "RS256", {"jwk": json.loads(RSAAlgorithm.to_jwk(STRANGER.public_key()))}),
        "expired": outside(exp=int(CLOCK())),
        "no expiry": outside(exp=None),
        "not yet": outside(nbf=int(CLOCK()) + 60),
        "issued in the future": outside(iat=int(CLOCK()) + 60),
        "another audience": outside(aud="other"),
        "no audience": outside(aud=None),
        "another issuer": outside(iss="https://evil.example"),
        "no issuer": outside(iss=None),
        "no tenant": outside(tenant=None),
        "a tenant that is not there": outside(tenant="none"),
        "a tenant that can not be": outside(tenant="\0"),
        "a tenant that is no text": outside(tenant=["acme"]),
        "no user": outside(sub=None),
        "a user that is no text": outside(tenant={}, sub="x"),
        "a deep header": f"{nested}.{body}.{signature}",
        "a deep body": f"{head}.{nested}.{signature}",
        "nothing": "..",
        "no base64": "a.b.c",
        "not ASCII": "é.é.é",
        "long": f"{head}.{body}.{'a' * 9000}",
    }


@pytest.mark.parametrize("name", wrong())
async def test_a_forged_token_is_refused(tokens: Tokens, name: str) -> None:
    with pytest.raises(Unauthenticated):
        await tokens.verify(wrong()[name])
    with pytest.raises(Unauthenticated):
        await tokens.redeem(wrong()[name])


async def test_without_an_issuer_its_tokens_are_nothing(store: Store, keys: Keys, valkey: Redis) -> None:
    with pytest.raises(Unauthenticated):
        await Tokens(store, keys, b"pepper", valkey, config.Issuer()).verify(outside())


class Web:
    """Where keys are fetched from."""

    def __init__(self, body: str | bytes, status: int = 200):
        self.body, self.status, self.fetched = body, status, 0

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.fetched += 1
        return httpx2.Response(self.status, content=self.body, headers={"location": "https://evil.example"})

    def keys(self) -> KeySet:
        issuer = config.Issuer(jwks="https://id.example/jwks", name=ISSUER, audience="x")
        return KeySet(issuer, CLOCK, httpx2.MockTransport(self))


async def test_fetched_keys_are_kept_and_fetched_again_when_they_are_old() -> None:
    web = Web(jwks())
    keys = web.keys()
    for _ in range(5):
        assert await keys.key("RS256")
    assert await keys.key("HS256") is None  # symmetric: whoever reads it could sign
    assert web.fetched == 1
    web.body = '{"keys":[]}'
    CLOCK.forward(600)
    assert await keys.key("RS256") is None
    assert web.fetched == 2


async def test_only_who_needs_new_keys_waits_for_them() -> None:
    reading, go_on = asyncio.Event(), asyncio.Event()

    class Slow(httpx2.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            if reading.is_set():
                return httpx2.Response(200, content=jwks())
            reading.set()
            await go_on.wait()
            return httpx2.Response(500)

    keys = Web(jwks()).keys()
    assert await keys.key("RS256")
    keys._transport = Slow()
    CLOCK.forward(600)
    waiting = asyncio.create_task(keys.key("RS256"))
    await reading.wait()
    assert await keys.key("RS256")
    assert not waiting.done()
    go_on.set()
    assert await waiting


async def test_an_unknown_key_id_is_looked_for_every_half_minute_at_most() -> None:
    web = Web(jwks().replace('"RS256"', '"other"'))
    keys = web.keys()
    for _ in range(5):
        assert await keys.key("RS256") is None
    assert web.fetched == 1
    web.body = jwks()
    CLOCK.forward(30)
    assert await keys.key("RS256")
    assert web.fetched == 2


@pytest.mark.parametrize(
    ("body", "status"), [(b"", 500), (b"", 302), (b"no", 200), (b"[" * 100_000, 200), (b'{"keys":[]' + b" " * 300_000, 200)]
)
async def test_a_source_that_fails_takes_no_key_away_and_gives_none(body: bytes, status: int) -> None:
    web = Web(body, status)
    keys = web.keys()
    with pytest.raises(Overloaded):
        await keys.key("RS256")
    web.body, web.status = jwks(), 200
    CLOCK.forward(30)
    assert await keys.key("RS256")
    web.body, web.status = body, status
    CLOCK.forward(600)
    assert await keys.key("RS256")
    assert web.fetched == 3


@pytest.mark.parametrize("url", ["http://id.example/jwks", "http://127.0.0.1.evil.example/"])
def test_keys_are_not_fetched_in_the_clear(url: str) -> None:
    with pytest.raises(ValueError, match="https"):
        config.Issuer(jwks=url, name=ISSUER, audience="x")
