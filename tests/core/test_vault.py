"""Envelope encryption."""

import os

import pytest

from deployments.core.vault import Lock, Sealed, Vault

ROOT = bytes(range(32))
PLACE = ("files", "file-1", "text")


@pytest.fixture
def lock() -> Lock:
    vault = Vault(ROOT)
    return vault.lock("acme", vault.new_key("acme"))


def test_what_is_sealed_opens_in_its_place_and_looks_different_each_time(lock: Lock) -> None:
    one, two = lock.seal(b"secret", *PLACE), lock.seal(b"secret", *PLACE)
    assert one != two
    assert lock.open(one, *PLACE) == lock.open(two, *PLACE) == b"secret"
    assert b"secret" not in one


@pytest.mark.parametrize("place", [("files", "file-2", "text"), ("files", "file-1", "title"), ("responses", "file-1", "text")])
def test_a_value_that_was_moved_does_not_open(lock: Lock, place: tuple[str, str, str]) -> None:
    with pytest.raises(Sealed):
        lock.open(lock.seal(b"secret", *PLACE), *place)


def test_a_value_that_was_changed_does_not_open(lock: Lock) -> None:
    blob = lock.seal(b"secret", *PLACE)
    for place in range(len(blob)):
        changed = bytearray(blob)
        changed[place] ^= 1
        with pytest.raises(Sealed):
            lock.open(bytes(changed), *PLACE)
    for size in range(len(blob)):
        with pytest.raises(Sealed):
            lock.open(blob[:size], *PLACE)


def test_neither_another_tenant_nor_another_root_opens(lock: Lock) -> None:
    vault = Vault(ROOT)
    wrapped = vault.new_key("acme")
    with pytest.raises(Sealed):
        vault.lock("other", wrapped)
    with pytest.raises(Sealed):
        Vault(os.urandom(32)).lock("acme", wrapped)
    with pytest.raises(Sealed):
        vault.lock("acme", wrapped).open(lock.seal(b"secret", *PLACE), *PLACE)


def test_each_object_has_a_key_of_its_own(lock: Lock) -> None:
    inner, wrapped = lock.new("files", "file-1")
    blob = inner.seal(b"secret", *PLACE)
    assert lock.of(wrapped, "files", "file-1").open(blob, *PLACE) == b"secret"
    with pytest.raises(Sealed):
        lock.of(wrapped, "files", "file-2")
    with pytest.raises(Sealed):
        lock.open(blob, *PLACE)


def test_a_root_key_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Vault(b"short")


def test_a_mark_names_a_value_only_to_who_has_the_key(lock: Lock) -> None:
    vault = Vault(ROOT)
    others = [vault.lock(name, vault.new_key(name)) for name in ("acme", "other")]
    assert lock.mark(b"secret") == lock.mark(b"secret")
    assert len({one.mark(value) for one in (lock, *others) for value in (b"secret", b"secret ")}) == 6
