"""The starter corpus: what a new installation can answer questions about at once, found on any machine."""

import hashlib
import re
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import distributions
from pathlib import Path

import httpx2

from deployments.core.config import Settings
from pipeline.cli.client import Client, Refused, key
from pipeline.cli.sync import Document, Sync

ROOT = "starter"
"""The tag that tells these documents from everybody else's."""

MAX_CHARS = 400_000
"""Of all documents together: about 1,000 passages, a minute of embedding on one core at 16 passages a second."""

_MIN_CHARS = 800
"""A shorter description says little more than where to read on."""
_FULL_CHARS = 24_000
_BRIEF_CHARS = 3_000
_BUILT_ON = (
    "ray",
    "fastapi",
    "starlette",
    "uvicorn",
    "pydantic",
    "openai",
    "typer",
    "sqlalchemy",
    "redis",
    "lancedb",
    "sentence-transformers",
)
"""Packages headrace is made of: their descriptions are taken in full, of others the beginning."""

_CHANGES = re.compile(
    r"^(?:#+[ ]*{0}[^\n]*|{0}[^\n]*\n[=\-~^#*]{{3,}}[ ]*)$".format(
        r"(?:change ?log|changes|history|release (?:notes|history)|what's new)\b"
    ),
    re.IGNORECASE | re.MULTILINE,
)
"""The heading of a list of changes, in Markdown or reStructuredText."""
_SUFFIXES = {"text/markdown": ".md", "text/plain": ".txt"}

Progress = Callable[[int, int, str], None]


def starter(settings: Settings, progress: Progress, door: Path | None = None) -> str:
    """Ingest the starter corpus with the demo key, through the public API; returns a line for people, and never raises Refused.

    `door` is a unix socket where the API answers, too.
    Doing so again does nothing; documents that changed are replaced, and those of packages that are gone are deleted.
    """
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host  # noqa: S104 - compared, not bound
    url = f"http://{host}:{settings.port}"
    try:
        transport = httpx2.HTTPTransport(uds=str(door)) if door else None
        with Client(url, key(None, url, settings), transport, tries=2) as client:
            store_id, _ = client.store(None)
            report = Sync(client, store_id, _Steps(progress)).run(list(corpus()), prune=True)
    except Refused as error:
        return f"not complete, the next start goes on: {error}"
    known = report.counts["added"] + report.counts["replaced"] + report.counts["unchanged"]
    return f"{known} documents" + (f", {len(report.failed)} could not be read" if report.failed else "")


def corpus() -> Iterator[Document]:
    """Our own documentation, then descriptions of installed packages, longest first, until the bound is reached."""
    left = MAX_CHARS
    for path, content in (*_guides(), *_descriptions()):
        left -= len(content)
        if left < 0:
            return
        encoded = content.encode()
        yield Document(path, ROOT, hashlib.sha256(encoded).hexdigest(), partial(bytes, encoded))


def _guides() -> Iterator[tuple[str, str]]:
    folder = Path(__file__).parents[1] / "docs"
    for file in sorted(folder.glob("*.md")):
        yield f"docs/{file.name}", file.read_text()


def _descriptions() -> list[tuple[str, str]]:
    found: dict[str, tuple[str, str]] = {}
    for distribution in distributions():
        about = distribution.metadata.json
        name = re.sub(r"[-_.]+", "-", str(about.get("name", ""))).lower()
        kind = str(about.get("description_content_type", "")).partition(";")[0].strip()
        text = brief(str(about.get("description", "")), _FULL_CHARS if name in _BUILT_ON else _BRIEF_CHARS)
        suffix = _SUFFIXES.get(kind, ".rst")
        if name and name not in found and len(text) >= _MIN_CHARS:
            found[name] = (f"packages/{name}{suffix}", _titled(name, suffix, text))
    order = sorted(found, key=lambda name: (name not in _BUILT_ON, -len(found[name][1]), name))
    return [found[name] for name in order]


def brief(text: str, limit: int) -> str:
    """A description without its list of changes, cut between paragraphs where it is longer than the limit."""
    text = text.replace("\r\n", "\n")
    if change := _CHANGES.search(text):
        text = text[: change.start()]
    if len(text) > limit:
        text = text[: max(text.rfind("\n\n", 0, limit), 0)]
    return text.strip()


def _titled(name: str, suffix: str, text: str) -> str:
    """The text under the package's name: many descriptions begin with a logo, or with how to install."""
    if suffix == ".md":
        return f"---\ntitle: {name}\n---\n{text}\n"
    rule = "=" * len(name)
    return f"{rule}\n{name}\n{rule}\n\n{text}\n" if suffix == ".rst" else f"{name}\n\n{text}\n"


class _Steps:
    """Counts what can be searched, out of what was sent."""

    def __init__(self, progress: Progress):
        self._progress, self._done, self._total = progress, 0, 0

    def sent(self, done: int, total: int, name: str) -> None:
        """Files that were uploaded."""
        self._total = total
        self._progress(self._done, total, name)

    def ingested(self, done: int, total: int) -> None:
        """Files that can be searched, or failed."""
        self._done, self._total = done, max(total, self._total)
        self._progress(done, self._total, "documents")
