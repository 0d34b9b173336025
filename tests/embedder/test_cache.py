import numpy as np
import pytest
from redis.asyncio import Redis

from deployments.core.valkey import connect
from deployments.embedder.cache import REST_S, SharedVectors, VectorCache
from tests.fakes import Clock


def vector(number: float) -> np.ndarray:
    return np.full(3, number, np.float32)


@pytest.fixture
async def shared(valkey: Redis) -> SharedVectors:
    return SharedVectors(valkey, b"secret", "model int8", 4096, 60)


def test_a_vector_is_found_by_its_text():
    cache = VectorCache(4)
    cache.put("acme", "one", vector(1))
    found = cache.get("acme", "one")
    assert found is not None
    np.testing.assert_array_equal(found, vector(1))
    assert cache.get("acme", "One") is None


def test_a_tenant_does_not_find_what_another_asked():
    cache = VectorCache(4)
    cache.put("acme", "one", vector(1))
    assert cache.get("other", "one") is None


def test_the_least_recently_used_vector_goes_first():
    cache = VectorCache(2)
    cache.put("acme", "one", vector(1))
    cache.put("acme", "two", vector(2))
    cache.get("acme", "one")
    cache.put("acme", "three", vector(3))
    assert [cache.get("acme", text) is None for text in ("one", "two", "three")] == [False, True, False]


def test_a_cache_without_room_keeps_nothing():
    cache = VectorCache(0)
    cache.put("acme", "one", vector(1))
    assert len(cache) == 0


def test_any_text_is_a_key():
    cache = VectorCache(2)
    cache.put("acme", "\ud800\0", vector(1))
    assert cache.get("acme", "\ud800\0") is not None


async def test_another_replica_finds_what_one_has_kept(shared: SharedVectors, valkey: Redis):
    await shared.put("acme", {"one": vector(1), "two": vector(2)})
    other = SharedVectors(valkey, b"secret", "model int8", 4096, 60)
    found = await other.get("acme", ["one", "three", "two"])
    assert set(found) == {"one", "two"}
    np.testing.assert_array_equal(found["two"], vector(2))


async def test_another_tenant_model_or_secret_finds_nothing(shared: SharedVectors, valkey: Redis):
    await shared.put("acme", {"one": vector(1)})
    assert await shared.get("other", ["one"]) == {}
    assert await SharedVectors(valkey, b"secret", "model fp32", 4096, 60).get("acme", ["one"]) == {}
    assert await SharedVectors(valkey, b"another", "model int8", 4096, 60).get("acme", ["one"]) == {}


async def test_neither_text_nor_vector_can_be_read_in_valkey(shared: SharedVectors, valkey: Redis):
    await shared.put("acme", {"the secret question": vector(7)})
    [key] = await valkey.keys("hr:{acme}:vector:*")
    kept = await valkey.get(key)
    assert b"secret" not in key + kept
    assert vector(7).tobytes() not in kept
    assert 0 < await valkey.ttl(key) <= 60


async def test_a_tenant_has_so_many_places_and_a_text_never_gets_the_vector_of_another(valkey: Redis):
    shared = SharedVectors(valkey, b"secret", "model int8", 3, 60)
    texts = [f"text {number}" for number in range(40)]
    await shared.put("acme", {text: vector(number) for number, text in enumerate(texts)})
    assert len(await valkey.keys("hr:{acme}:vector:*")) <= 3
    found = await shared.get("acme", texts)
    assert 0 < len(found) <= 3
    for text, one in found.items():
        np.testing.assert_array_equal(one, vector(texts.index(text)))


async def test_what_was_changed_in_valkey_is_a_miss(shared: SharedVectors, valkey: Redis):
    await shared.put("acme", {"one": vector(1)})
    [key] = await valkey.keys("hr:{acme}:vector:*")
    await valkey.set(key, (await valkey.get(key))[:-1] + b"\0\0")
    assert await shared.get("acme", ["one"]) == {}


async def test_a_valkey_that_is_away_is_a_miss_and_left_alone_for_a_while(shared: SharedVectors, valkey: Redis):
    clock, away = Clock(), connect("unix:///nowhere/valkey.sock")
    cache = SharedVectors(away, b"secret", "model int8", 4096, 60, clock)
    assert await cache.get("acme", ["one"]) == {}
    await cache.put("acme", {"one": vector(1)})
    cache._valkey = valkey  # it is back
    await shared.put("acme", {"one": vector(1)})
    assert await cache.get("acme", ["one"]) == {}
    clock.forward(REST_S + 1)
    assert set(await cache.get("acme", ["one"])) == {"one"}
    await away.aclose()
