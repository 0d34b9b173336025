"""Envelope encryption of what tenants say and upload: a root key wraps a key per tenant, which wraps a key per object.

AES-256-GCM with a random 96-bit nonce; the associated data names tenant, table, row and column, so a ciphertext that is moved does
not open. A blob is a version byte, the nonce, and the ciphertext with its tag. What stays clear: ids, file names, sizes, times,
states and counts. Deleting an object deletes its key with it.
"""

import hmac
import os

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from deployments.core.derived import derive
from deployments.core.errors import HeadraceError

KEY_BYTES = 32
_VERSION = 1
_NONCE_BYTES = 12
_OVERHEAD_BYTES = 1 + _NONCE_BYTES + 16

_encode = msgspec.msgpack.encode


class Sealed(HeadraceError):
    """A stored value does not open: it was changed, moved, or sealed with another key."""

    code = "sealed"


class Lock:
    """One key of one tenant; seals values for a place in the database."""

    def __init__(self, key: bytes, tenant: str):
        self._cipher = AESGCM(key)
        self._marker = hmac.digest(key, b"headrace mark", "sha256")  # a key of its own for each purpose
        self._tenant = tenant

    def seal(self, value: bytes | bytearray, table: str, row: str, column: str) -> bytes:
        """A blob that opens only there."""
        nonce = os.urandom(_NONCE_BYTES)
        return bytes([_VERSION]) + nonce + self._cipher.encrypt(nonce, value, self._place(table, row, column))

    def open(self, blob: bytes, table: str, row: str, column: str) -> bytes:
        """What was sealed there; raises Sealed."""
        if len(blob) < _OVERHEAD_BYTES or blob[0] != _VERSION:
            raise Sealed("a stored value can not be read")
        nonce = blob[1 : 1 + _NONCE_BYTES]
        try:
            return self._cipher.decrypt(nonce, blob[1 + _NONCE_BYTES :], self._place(table, row, column))
        except InvalidTag:
            raise Sealed("a stored value can not be read") from None

    def mark(self, value: bytes) -> str:
        """A keyed digest, in hex: it names a value, and tells nothing of it to who lacks the key."""
        return hmac.digest(self._marker, value, "sha256").hex()

    def new(self, table: str, row: str) -> tuple["Lock", bytes]:
        """A lock for one object, and its key wrapped for the object's row."""
        key = os.urandom(KEY_BYTES)
        return Lock(key, self._tenant), self.seal(key, table, row, "data_key")

    def of(self, wrapped: bytes, table: str, row: str) -> "Lock":
        """The lock of an object; raises Sealed."""
        return Lock(self.open(wrapped, table, row, "data_key"), self._tenant)

    def _place(self, table: str, row: str, column: str) -> bytes:
        return _encode([_VERSION, self._tenant, table, row, column])


class Vault:
    """The root key, and the locks of the tenants."""

    def __init__(self, root: bytes):
        if len(root) != KEY_BYTES:
            raise ValueError(f"the root key has {KEY_BYTES} bytes")
        self._root = root

    def derived(self, purpose: str) -> bytes:
        """A key for something other than content."""
        return derive(self._root, purpose)

    def new_key(self, tenant: str) -> bytes:
        """A key for a new tenant, wrapped for its row."""
        return self._wrapping(tenant).seal(os.urandom(KEY_BYTES), "tenants", tenant, "key")

    def lock(self, tenant: str, wrapped: bytes) -> Lock:
        """The lock of a tenant; raises Sealed."""
        return Lock(self._wrapping(tenant).open(wrapped, "tenants", tenant, "key"), tenant)

    def _wrapping(self, tenant: str) -> Lock:
        return Lock(self._root, tenant)
