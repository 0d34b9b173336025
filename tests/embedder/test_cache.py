import numpy as np

from deployments.embedder.cache import VectorCache


def vector(number: float) -> np.ndarray:
    return np.full(3, number, np.float32)


def test_a_vector_is_found_by_its_text():
    cache = VectorCache("model", 4)
    cache.put("one", vector(1))
    found = cache.get("one")
    assert found is not None
    np.testing.assert_array_equal(found, vector(1))
    assert cache.get("One") is None


def test_the_least_recently_used_vector_goes_first():
    cache = VectorCache("model", 2)
    cache.put("one", vector(1))
    cache.put("two", vector(2))
    cache.get("one")
    cache.put("three", vector(3))
    assert (cache.get("one") is None, cache.get("two") is None, cache.get("three") is None) == (False, True, False)


def test_a_cache_without_room_keeps_nothing():
    cache = VectorCache("model", 0)
    cache.put("one", vector(1))
    assert len(cache) == 0


def test_any_text_is_a_key():
    cache = VectorCache("a model with a name longer than any key of the digest may be " * 3, 2)
    cache.put("\ud800\0", vector(1))
    assert cache.get("\ud800\0") is not None
