"""Makes a vector store hold what a folder holds: what is new is added, what changed is replaced, what is the same is left alone."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from pipeline.cli.client import Client, Held, Refused

_POLL_S = 0.5
_PATIENCE_S = 600
"""How long nothing may be finished before we stop waiting: three attempts of a worker and their pauses are well under it."""


@dataclass(frozen=True)
class Document:
    """Something to ingest: its path below its root, the tag of that root, and how to get its content."""

    path: str
    root: str
    sha256: str
    load: Callable[[], bytes]
    file: Path | None = None
    """Where it lies, if it is a file of this machine."""

    @property
    def attributes(self) -> dict[str, str]:
        """What a later run knows it by."""
        return {"path": self.path, "sha256": self.sha256, "root": self.root}


@dataclass(frozen=True)
class Plan:
    """What has to be done.

    `send`: documents, each with the files it replaces. `waiting`: files on their way, with their path and what they replace.
    `stale`: what an interrupted run left beside its replacement. `gone`: what is no longer found below its root.
    """

    send: tuple[tuple[Document, tuple[str, ...]], ...]
    waiting: tuple[tuple[str, str, tuple[str, ...]], ...]
    unchanged: int
    stale: tuple[str, ...]
    gone: tuple[str, ...]


def plan(found: Iterable[Document], held: Iterable[Held]) -> Plan:
    """Compare documents with the files of a store; files from other roots are left alone."""
    documents = {(document.root, document.path): document for document in found}
    roots = {root for root, _ in documents}
    versions: dict[tuple[str, str], list[Held]] = {}
    for file in held:
        versions.setdefault((file.attribute("root"), file.attribute("path")), []).append(file)
    elsewhere = {(path, file.attribute("sha256")) for (_, path), files in versions.items() for file in files if _alive(file)}
    send: list[tuple[Document, tuple[str, ...]]] = []
    waiting: list[tuple[str, str, tuple[str, ...]]] = []
    stale: list[str] = []
    unchanged = 0
    for identity, document in documents.items():
        there = versions.pop(identity, [])
        same = [file for file in there if _alive(file) and file.attribute("sha256") == document.sha256]
        others = tuple(file.id for file in there if not same or file is not same[-1])
        if same and same[-1].status == "in_progress":
            waiting.append((same[-1].id, document.path, others))
        elif same or (not there and (document.path, document.sha256) in elsewhere):
            unchanged += 1
            stale += others
        else:
            send.append((document, others))
    gone = [file.id for (root, _), files in versions.items() if root in roots for file in files]
    return Plan(tuple(send), tuple(waiting), unchanged, tuple(stale), tuple(gone))


def _alive(file: Held) -> bool:
    return file.status in ("completed", "in_progress")


Change = Literal["added", "replaced", "unchanged", "removed"]


@dataclass
class Report:
    """How a run ended: how many documents of each kind, and path and reason of those that failed."""

    counts: Counter[Change] = field(default_factory=Counter[Change])
    failed: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])


class Shows(Protocol):
    """Shows how far a run is."""

    def sent(self, done: int, total: int, name: str) -> None:
        """Files that were uploaded."""
        ...

    def ingested(self, done: int, total: int) -> None:
        """Files that can be searched, or failed."""
        ...


class Sync:
    """One run."""

    def __init__(
        self,
        client: Client,
        store_id: str,
        shows: Shows,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self._client, self._store_id, self._shows = client, store_id, shows
        self._clock, self._sleep = clock, sleep
        self._open: dict[str, tuple[str, tuple[str, ...], Change]] = {}
        self._settled = 0
        self._looked = 0.0
        self._report = Report()

    def run(self, found: Sequence[Document], prune: bool = False) -> Report:
        """Bring the store up to date and wait until that is done. Raises Refused where it can not go on at all."""
        todo = plan(found, self._client.members(self._store_id))
        self._report.counts["unchanged"] = todo.unchanged
        self._open = {file_id: (path, old, "replaced" if old else "added") for file_id, path, old in todo.waiting}
        for number, (document, old) in enumerate(todo.send, 1):
            self._send(document, old)
            self._shows.sent(number, len(todo.send), document.path)
            if self._clock() - self._looked > _POLL_S:
                self._look()
        self._wait()
        for file_id in (*todo.stale, *(todo.gone if prune else ())):
            self._client.delete(file_id)
        self._report.counts["removed"] = len(todo.gone) if prune else 0
        return self._report

    def _send(self, document: Document, old: tuple[str, ...]) -> None:
        try:
            file_id = self._client.upload(document.path, document.load())
            self._client.add(self._store_id, file_id, document.attributes)
        except OSError as error:
            self._report.failed.append((document.path, error.strerror or "cannot be read"))
        except Refused as error:
            if error.status not in (400, 413):
                raise
            self._report.failed.append((document.path, str(error)))
        else:
            self._open[file_id] = (document.path, old, "replaced" if old else "added")

    def _wait(self) -> None:
        left, since = len(self._open), self._clock()
        while self._open:
            self._look()
            if len(self._open) != left:
                left, since = len(self._open), self._clock()
            elif self._clock() - since > _PATIENCE_S:
                raise Refused(f"{left} files are still being ingested; that goes on without this command")
            if self._open:
                self._sleep(_POLL_S)

    def _look(self) -> None:
        """Settle what has ended since the last look: a document's old form goes once the new one is complete."""
        running = {file.id for file in self._client.members(self._store_id, "in_progress")}
        ended = [file_id for file_id in self._open if file_id not in running]
        failures = {file.id: file for file in self._client.members(self._store_id, "failed")} if ended else {}
        for file_id in ended:
            path, old, change = self._open.pop(file_id)
            self._settled += 1
            if failure := failures.get(file_id):
                self._report.failed.append((path, failure.last_error.message if failure.last_error else "failed"))
                continue
            self._report.counts[change] += 1
            for replaced in old:
                self._client.delete(replaced)
        self._looked = self._clock()
        self._shows.ingested(self._settled, self._settled + len(self._open))
