"""What must be there before the application starts: the schema, and a tenant to try it with."""

import asyncio
import os
import secrets
from pathlib import Path

from deployments.core.config import Settings
from deployments.core.errors import Unauthenticated
from deployments.core.keys import Keys
from deployments.core.schema import migrate
from deployments.core.store import open_store
from deployments.core.types import Principal

DEMO = "demo"
"""Name of the tenant that a new installation has, and of its key."""

_SCOPES = ["chat", "files:read", "files:write"]


def demo_key(settings: Settings) -> Path:
    """Where the key of the demo tenant is kept."""
    return settings.data_dir / "demo.key"


def prepare(settings: Settings) -> None:
    """Bring the database to the newest schema, and see that the demo tenant has a vector store and a key file that works.

    Doing so again changes nothing. A key file that was deleted, or whose key is not valid, is made anew and the old key ends.
    """
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    if settings.sql_url is None:
        (settings.data_dir / "headrace.db").touch(mode=0o600)  # SQLite gives its other files the same mode
    path = demo_key(settings)
    made = asyncio.run(_prepare(settings, path.read_bytes() if path.exists() else b""))
    if made:
        _write(path, made)
    path.chmod(0o600)


async def _prepare(settings: Settings, known: bytes) -> str:
    """Returns the new key; "" where the known one is valid."""
    await migrate(settings.database_url)
    store = open_store(settings)
    try:
        keys = Keys(store, settings.pepper_bytes())
        if not await keys.has_tenant(DEMO):
            await keys.add_tenant("Demo", DEMO)
        demo = store.of(Principal(DEMO, "setup", frozenset(_SCOPES)))
        if await demo.default_store() is None:
            await demo.add_store("default")
        if await _opens(keys, known):
            return ""
        await keys.revoke_named(DEMO, DEMO)
        return (await keys.mint(DEMO, _SCOPES, name=DEMO)).secret
    finally:
        await store.close()


async def _opens(keys: Keys, known: bytes) -> bool:
    try:
        return (await keys.verify(known.decode("ascii", "replace").strip())).tenant == DEMO
    except Unauthenticated:
        return False


def _write(path: Path, secret: str) -> None:
    """A private file, whole or not at all."""
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secret)
    unfinished.replace(path)
