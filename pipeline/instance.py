"""The right to run on one data folder, and the knowledge of every process that belongs to it."""

import ctypes
import fcntl
import json
import os
import secrets
import shutil
import signal
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

MARK = "HEADRACE_INSTANCE"
"""Variable that every process of an instance has in its environment, with the instance's id."""

_PR_SET_CHILD_SUBREAPER = 36
_SHORT_ROOT = Path("/tmp")  # noqa: S108 — holds one symbolic link of ours with a random name; sockets need a short path


class InUse(Exception):
    """Another instance runs on the data folder."""


@dataclass(frozen=True)
class Card:
    """What an instance leaves for `headrace stop`, for `doctor` and for the next start."""

    mark: str
    pid: int
    created: float
    short: str
    url: str
    serve_port: int = 0
    fallback_port: int = 0
    reloads: int = 0
    refused: str = ""
    """Why the last reload changed nothing."""


class Instance:
    """One running headrace on one data folder; the lock goes with the process, however it ends."""

    def __init__(self, data_dir: Path, url: str, *, adopt: bool = False):
        """With `adopt`, orphans of the instance come to this process, and every descendant of this process belongs to it."""
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        data_dir.chmod(0o700)
        self.data_dir = data_dir.resolve()
        self._lock = _lock(self.data_dir, url)
        self.stragglers = self._inherit()
        mark = secrets.token_hex(8)
        run = self.data_dir / "run"
        shutil.rmtree(run, ignore_errors=True)
        run.mkdir(mode=0o700)
        short = _SHORT_ROOT / f"hr-{mark[:8]}"
        short.symlink_to(run)
        self.card = Card(mark, os.getpid(), psutil.Process().create_time(), str(short), url)
        self._write()
        self._root = psutil.Process() if adopt else None
        if adopt:
            ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    @property
    def folder(self) -> Path:
        """A short path to the private folder for sockets and generated files."""
        return Path(self.card.short)

    def subfolder(self, name: str) -> Path:
        """A private folder inside it, by its short path."""
        (self.folder / name).mkdir(mode=0o700, exist_ok=True)
        return self.folder / name

    def listen(self, serve_port: int, fallback_port: int) -> None:
        """Note the ports behind the edge."""
        self.card = replace(self.card, serve_port=serve_port, fallback_port=fallback_port)
        self._write()

    def reloaded(self, refused: str) -> None:
        """Note how a reload went."""
        self.card = replace(self.card, reloads=self.card.reloads + 1, refused=refused)
        self._write()

    def sweep(self, spare: Collection[int] = ()) -> list[str]:
        """Kill every process of this instance but `spare`, orphans that came to us included; their names."""
        return _sweep(self.card.mark, spare, self._root)

    def close(self) -> list[str]:
        """Kill what is left and give the data folder free; the names of what had to be killed."""
        names = self.sweep()
        _unlink(self.card.short)
        card_path(self.data_dir).unlink(missing_ok=True)
        os.close(self._lock)
        return names

    def _inherit(self) -> list[str]:
        """End what a dead instance of the same folder left behind."""
        left = read(self.data_dir)
        if left is None:
            return []
        names = _sweep(left.mark)
        _unlink(left.short)
        return names

    def _write(self) -> None:
        path = card_path(self.data_dir)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(asdict(self.card), file)


def card_path(data_dir: Path) -> Path:
    """Where the card lies."""
    return data_dir / "instance.json"


def read(data_dir: Path) -> Card | None:
    """The card of the instance that runs, or died, on the folder."""
    try:
        return Card(**json.loads(card_path(data_dir).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def running(data_dir: Path) -> bool:
    """True where an instance holds the folder."""
    try:
        os.close(_lock(data_dir, ""))
    except InUse:
        return True
    except OSError:
        return False
    return False


def end(data_dir: Path, patience_s: float = 60) -> list[str] | None:
    """Ask the instance of the folder to stop, wait, and kill what stays; names of what was killed, None where none runs."""
    card, was_running = read(data_dir), running(data_dir)
    if card is None:
        return None
    if was_running and _is(card):
        os.kill(card.pid, signal.SIGTERM)
    until = time.monotonic() + patience_s
    while running(data_dir) and time.monotonic() < until:
        time.sleep(0.1)
    names: list[str] = []
    if running(data_dir) and _is(card):
        os.kill(card.pid, signal.SIGKILL)
        names.append("supervisor")
    names += _sweep(card.mark)
    return names if was_running or names else None


def renew(data_dir: Path, number: signal.Signals, patience_s: float = 30) -> str | None:
    """Have the instance of the folder reload, and wait; why it did not, "" where it did, None where none runs."""
    before = read(data_dir)
    if before is None or not running(data_dir) or not _is(before):
        return None
    os.kill(before.pid, number)
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        card = read(data_dir)
        if card is not None and card.reloads > before.reloads:
            return card.refused
        time.sleep(0.05)
    return "it did not say in time how it went"


def members(mark: str, root: psutil.Process | None = None) -> Iterator[psutil.Process]:
    """Every process of an instance: marked, or a descendant of a marked one or of `root`.

    Ray's agents and setproctitle overwrite their environment, so a mark alone does not find them.
    """
    found = {p.pid: p for p in root.children(recursive=True)} if root else {}
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark:
                found |= {p.pid: p for p in (process, *process.children(recursive=True))}
        except psutil.Error:
            continue
    found.pop(os.getpid(), None)
    yield from found.values()


def _sweep(mark: str, spare: Collection[int] = (), root: psutil.Process | None = None) -> list[str]:
    names: list[str] = []
    for _ in range(5):  # a process may have been forked while we looked
        doomed = [p for p in members(mark, root) if p.pid not in spare and _alive(p)]
        if not doomed:
            break
        for process in doomed:
            try:
                name = process.name()
                process.kill()
                names.append(name)
            except psutil.Error:
                continue
        psutil.wait_procs(doomed, timeout=3)
    return names


def _unlink(short: str) -> None:
    """Remove an instance's short path; what is there instead of a symbolic link is not ours, and stays."""
    link = Path(short)
    if link.parent == _SHORT_ROOT and link.is_symlink():
        with suppress(OSError):  # gone meanwhile, or another user's; a link that stays disturbs nobody, its name was random
            link.unlink()


def _alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _is(card: Card) -> bool:
    try:
        return abs(psutil.Process(card.pid).create_time() - card.created) < 1
    except psutil.Error:
        return False


def _lock(data_dir: Path, url: str) -> int:
    handle = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        card = read(data_dir)
        where = f" as process {card.pid}, at {card.url}" if card else ""
        raise InUse(f"headrace already runs on {data_dir}{where}; `headrace stop` ends it") from None
    return handle
