"""The public keys of an outside issuer (RFC 7517), from a file or a URL."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import jwt
import msgspec

from deployments.core import config
from deployments.core.errors import Overloaded

_logger = logging.getLogger("headrace.identity")

_MAX_BYTES = 256 << 10
_AGAIN_S = 30
"""An unknown key id, and a source that fails, make us look again no more often than this."""


class Document(msgspec.Struct):
    """A key set; a key of a kind we do not know is passed over."""

    keys: list[dict[str, Any]]


class KeySet:
    """Keys by id, read when first asked for, again when they are old, and once in a while for an id that is not among them."""

    def __init__(self, issuer: config.Issuer, clock: Callable[[], float], transport: httpx2.AsyncBaseTransport | None = None):
        self._source = issuer.jwks or ""
        self._issuer = issuer
        self._clock = clock
        self._transport = transport
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._read_at: float | None = None
        self._tried_at: float | None = None
        self._reading = asyncio.Lock()

    async def key(self, kid: str | None) -> jwt.PyJWK | None:
        """The key of that id, or without an id the only one there is; raises Overloaded where no keys could be read yet."""
        known = self._find(kid)
        if known and (self._reading.locked() or not self._older(self._read_at, self._issuer.refresh_s)):
            return known  # where the keys are being read again, only who needs them waits
        async with self._reading:
            if self._older(self._tried_at, _AGAIN_S):
                await self._refresh()
        if self._read_at is None:
            raise Overloaded("the public keys of the token's issuer can not be read now", retry_after_s=_AGAIN_S)
        return self._find(kid)

    def _find(self, kid: str | None) -> jwt.PyJWK | None:
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(kid)

    def _older(self, at: float | None, seconds: float) -> bool:
        return at is None or not 0 <= self._clock() - at < seconds

    async def _refresh(self) -> None:
        """Read the keys; where that fails, those that are known stay."""
        self._tried_at = self._clock()
        try:
            async with asyncio.timeout(self._issuer.timeout_s):
                content = await (self._fetch() if "://" in self._source else asyncio.to_thread(_load, Path(self._source)))
            self._keys = self._usable(msgspec.json.decode(content, type=Document))
            self._read_at = self._tried_at
        except (OSError, TimeoutError, ValueError, RecursionError, httpx2.HTTPError) as error:
            _logger.warning("the public keys at %s can not be read: %s", self._source, error or type(error).__name__)

    async def _fetch(self) -> bytes:
        # No redirects, no proxy of the environment: the keys come from where the configuration says.
        async with (
            httpx2.AsyncClient(trust_env=False, timeout=self._issuer.timeout_s, transport=self._transport) as client,
            client.stream("GET", self._source) as response,
        ):
            response.raise_for_status()
            content = b""
            async for piece in response.aiter_bytes():
                content += piece
                if len(content) > _MAX_BYTES:
                    raise ValueError(f"more than {_MAX_BYTES} bytes")
            return content

    def _usable(self, document: Document) -> dict[str | None, jwt.PyJWK]:
        """The keys that may sign tokens with an algorithm that is allowed; a symmetric one never is."""
        keys: dict[str | None, jwt.PyJWK] = {}
        for data in document.keys:
            if data.get("use", "sig") != "sig":
                continue
            try:
                key = jwt.PyJWK(data)
            except (jwt.PyJWTError, ValueError, TypeError):
                continue
            if key.algorithm_name in self._issuer.algorithms:
                keys[key.key_id] = key
        return keys


def _load(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise ValueError(f"more than {_MAX_BYTES} bytes")
    return content
