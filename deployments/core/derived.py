"""Keys derived from one secret, each for one purpose, by HKDF-SHA256 (RFC 5869)."""

from dataclasses import dataclass, field

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


def derive(secret: bytes, purpose: str) -> bytes:
    """32 bytes that say nothing about the secret, nor about those of another purpose."""
    return HKDF(SHA256(), 32, None, f"headrace {purpose}".encode()).derive(secret)


@dataclass(frozen=True, init=False)
class Derived:
    """What the pepper is good for; no key here does two jobs."""

    api_keys: bytes = field(repr=False)
    browser_sessions: bytes = field(repr=False)
    session_tokens: bytes = field(repr=False)
    socket_tickets: bytes = field(repr=False)

    def __init__(self, pepper: bytes):
        for name in self.__dataclass_fields__:
            object.__setattr__(self, name, derive(pepper, name))
