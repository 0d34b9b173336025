"""`headrace ingest`: files of this machine into a vector store."""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from deployments.core.config import Settings
from deployments.core.errors import NotFound
from deployments.core.store import VectorStore
from deployments.core.types import Principal
from deployments.retriever.charset import BOMS, PROBE_BYTES
from deployments.retriever.parse import BINARY, SUFFIXES
from pipeline.cli.client import URL, Client, Refused, key, line
from pipeline.cli.registry import DEFAULT, Config, Registry, settings_of, within
from pipeline.cli.sync import Change, Document, Sync
from pipeline.setup import DEMO

COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())

_SHOWN = 20
"""Skipped or failed files that are listed one by one; more are counted."""


@dataclass
class Found:
    """Documents of some paths, and what was left out: path and reason."""

    documents: list[Document] = field(default_factory=list[Document])
    skipped: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])


def find(paths: Sequence[Path], max_bytes: int) -> Found:
    """Every document at or below the paths; hidden ones and links that lead out of a folder are skipped."""
    found = Found()
    known: set[tuple[str, str]] = set()
    for path in paths:
        folder = path if path.is_dir() else path.parent
        tag = root_tag(folder)
        for file in _walk(path, found) if path.is_dir() else [path]:
            name = file.relative_to(folder).as_posix()
            if reason := _unfit(file, folder, max_bytes, named=file == path):
                found.skipped.append((name, reason))
            elif (tag, name) not in known:
                known.add((tag, name))
                found.documents.append(Document(name, tag, hashlib.sha256(file.read_bytes()).hexdigest(), file.read_bytes, file))
    return found


def root_tag(folder: Path) -> str:
    """Tells folders of the same name apart without telling where they are."""
    whole = folder.resolve()
    return f"{whole.name}:{hashlib.sha256(str(whole).encode('utf-8', 'surrogateescape')).hexdigest()[:12]}"


def _walk(folder: Path, found: Found) -> Iterator[Path]:
    for place, folders, files in os.walk(folder, onerror=lambda error: found.skipped.append((str(error.filename), "cannot be read"))):
        hidden = [name for name in (*folders, *files) if name.startswith(".")]
        found.skipped += [((Path(place) / name).relative_to(folder).as_posix(), "hidden") for name in hidden]
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place) / name for name in sorted(files) if not name.startswith("."))


def _unfit(file: Path, folder: Path, max_bytes: int, named: bool) -> str:
    """Why a file can not be ingested; "" where it can, as far as that is known before it is parsed."""
    try:
        if file.is_symlink() and not file.resolve().is_relative_to(folder.resolve()):
            return "a link out of its folder"
        if not file.is_file():
            return "not a regular file"
        suffix = file.suffix.lower()
        if suffix not in SUFFIXES and not (named and not suffix):
            return f"{suffix or 'no'} suffix is not supported"
        size = file.stat().st_size
        if size > max_bytes:
            return f"larger than {max_bytes} bytes"
        with file.open("rb") as content:
            head = content.read(PROBE_BYTES)
    except OSError as error:
        return error.strerror or "cannot be read"
    if not head.strip():
        return "empty"
    marked = any(head.startswith(mark) for mark, _ in BOMS)
    return "binary" if b"\0" in head and not marked and suffix not in BINARY else ""


class Bars:
    """Two bars: what was uploaded, and what can be searched."""

    def __init__(self, progress: Progress):
        self._progress = progress
        self._upload = progress.add_task("upload", total=None, visible=False)
        self._ingest = progress.add_task("ingest", total=None, visible=False)

    def sent(self, done: int, total: int, name: str) -> None:
        """Files that were uploaded."""
        self._progress.update(self._upload, completed=done, total=total, visible=True)

    def ingested(self, done: int, total: int) -> None:
        """Files that can be searched, or failed."""
        self._progress.update(self._ingest, completed=done, total=total, visible=total > 0)


def ingest(
    paths: Annotated[list[Path], typer.Argument(exists=True, help="Files and folders; folders are searched recursively.")],
    store: Annotated[str | None, typer.Option(help="Vector store, by name or id; the tenant's first if none is given.")] = None,
    prune: Annotated[bool, typer.Option(help="Also delete what was ingested from these folders and is no longer in them.")] = False,
    bulk: Annotated[
        bool, typer.Option("--bulk", help="Do the work here with all cores, straight into the database of --config, which must be at hand.")
    ] = False,
    tenant: Annotated[str, typer.Option(help="With --bulk: whose store it is.")] = DEMO,
    config: Config = DEFAULT,
    url: Annotated[str, typer.Option(envvar="HEADRACE_URL", help="Where headrace answers.")] = URL,
    api_key: Annotated[
        str | None, typer.Option("--key", envvar="HEADRACE_API_KEY", help="API key; the demo tenant's if none is given.")
    ] = None,
) -> None:
    """Ingest documents, tables, records and source code; what is unchanged since the last time is left alone."""
    console = Console(highlight=False)
    if bulk:
        in_bulk(console, paths, store, prune, tenant, config)
        return
    found = find(paths, Settings.model_validate({}).gateway.max_upload_bytes)
    try:
        with Client(url, key(api_key, url)) as client:
            store_id, name = client.store(store)
            with Progress(*COLUMNS, console=console) as progress:
                report = Sync(client, store_id, Bars(progress)).run(found.documents, prune)
    except Refused as error:
        Console(stderr=True).print(Text(f"cannot ingest: {error}", "red"), soft_wrap=True)
        raise typer.Exit(1) from None
    show(console, name or store_id, found, {**report.counts}, report.failed)


def in_bulk(console: Console, paths: Sequence[Path], wanted: str | None, prune: bool, tenant: str, config: Path) -> None:
    """Ingest by `pipeline.bulk`; see `ingest`."""
    from deployments.retriever.service import Retriever
    from pipeline.bulk import Bulk, running  # Ray Data and Lance take seconds to import

    settings = settings_of(config)
    found = find(paths, settings.gateway.max_upload_bytes)
    principal, cores = Principal(tenant, "cli", frozenset()), len(os.sched_getaffinity(0))

    async def work(registry: Registry) -> None:
        store = await chosen(registry, principal, wanted)
        retriever = Retriever(settings)
        try:
            with Progress(*COLUMNS, console=console) as progress, running(cores):
                bars = Bars(progress)
                report = await Bulk(settings, registry.store, retriever, principal, store.id).run(
                    found.documents, cores, bars.ingested, prune=prune
                )
        finally:
            await retriever.close()
        show(console, store.name or store.id, found, report.counts, report.failed)

    within(config, work)


async def chosen(registry: Registry, principal: Principal, wanted: str | None) -> VectorStore:
    """A vector store given by id or name; without one, the tenant's first. Raises NotFound."""
    for store in await registry.store.of(principal).stores():
        if wanted in (None, store.id, store.name):
            return store
    raise NotFound(f"the tenant '{principal.tenant}' has no vector store {wanted or ''}".rstrip())


def show(
    console: Console, store: str, found: Found, done: Mapping[Change, int] | Mapping[str, int], failed: Sequence[tuple[str, str]]
) -> None:
    """The summary: how many of each, then what was skipped and what failed, with reasons; a failure ends the command with 1."""
    counts = {change: done.get(change, 0) for change in ("added", "replaced", "unchanged", "removed")}
    counts |= {change: count for change, count in done.items() if count and change not in counts}
    counts |= {"skipped": len(found.skipped), "failed": len(failed)}
    summary = Table("", "files", box=None, title=Text(f"vector store {line(store)}"), title_justify="left")
    for name, count in counts.items():
        summary.add_row(name, str(count))
    console.print(summary)
    for title, rows in (("skipped", found.skipped), ("failed", failed)):
        listed = [(name, reason) for name, reason in rows if reason != "hidden"]
        for name, reason in listed[:_SHOWN]:
            console.print(Text(f"  {title}  {line(name)}: {line(reason)}"), soft_wrap=True)
        if len(listed) > _SHOWN:
            console.print(Text(f"  {title}  … and {len(listed) - _SHOWN} more"))
    if failed:
        raise typer.Exit(1)
