"""What must be there before the application starts: the schema, a tenant to try it with, and an administrator's key."""

import asyncio
import os
import secrets
from pathlib import Path

from deployments.core.config import Settings
from deployments.core.errors import TenantSuspended, Unauthenticated
from deployments.core.keys import Keys
from deployments.core.schema import migrate
from deployments.core.store import open_store
from deployments.core.types import Principal

DEMO = "demo"
"""Name of the tenant that a new installation has, and of its key."""

ADMIN = "admin"
"""Name of the tenant that administrators' keys belong to, and of the first of them."""

_SCOPES = {DEMO: ["chat", "files:read", "files:write"], ADMIN: ["admin"]}


def demo_key(settings: Settings) -> Path:
    """Where the key of the demo tenant is kept."""
    return settings.data_dir / "demo.key"


def admin_key(settings: Settings) -> Path:
    """Where the administrator's key is kept."""
    return settings.data_dir / "admin.key"


def prepare(settings: Settings) -> None:
    """Bring the database to the newest schema, and see that the demo tenant has a vector store and both key files work.

    Doing so again changes nothing. A key file that was deleted, or whose key is not valid, is made anew and the old key ends.
    """
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    if settings.sql_url is None:
        (settings.data_dir / "headrace.db").touch(mode=0o600)  # SQLite gives its other files the same mode
    paths = {DEMO: demo_key(settings), ADMIN: admin_key(settings)}
    made = asyncio.run(_prepare(settings, {name: path.read_bytes() if path.exists() else b"" for name, path in paths.items()}))
    for name, path in paths.items():
        if name in made:
            _write(path, made[name])
        path.chmod(0o600)


async def _prepare(settings: Settings, known: dict[str, bytes]) -> dict[str, str]:
    """Returns the new keys by tenant; none where the known one is valid."""
    await migrate(settings.database_url)
    store = open_store(settings)
    try:
        keys = Keys(store, settings.pepper_bytes())
        made = {name: secret for name, content in known.items() if (secret := await _renewed(keys, name, content))}
        demo = store.of(Principal(DEMO, "setup", frozenset(_SCOPES[DEMO])))
        if await demo.default_store() is None:
            await demo.add_store("default")
        return made
    finally:
        await store.close()


async def _renewed(keys: Keys, name: str, known: bytes) -> str:
    """A new key of a tenant that may be new as well; "" where the known one is valid."""
    if not await keys.has_tenant(name):
        await keys.add_tenant(name.capitalize(), name)
    if await _opens(keys, name, known):
        return ""
    await keys.revoke_named(name, name)
    return (await keys.mint(name, _SCOPES[name], name=name)).secret


async def _opens(keys: Keys, name: str, known: bytes) -> bool:
    """Whether that is a key of the tenant; one that is suspended keeps its key."""
    try:
        return (await keys.verify(known.decode("ascii", "replace").strip())).tenant == name
    except TenantSuspended:
        return True
    except Unauthenticated:
        return False


def _write(path: Path, secret: str) -> None:
    """A private file, whole or not at all."""
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secret)
    unfinished.replace(path)
