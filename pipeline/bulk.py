"""Ingestion of many files at once, by Ray Data, straight into the database and the index of this installation.

Tasks read and cut files, a pool of actors embeds their passages, and this process writes: some files in one transaction of SQL, then in
one commit of the index, then marked completed. Who is killed leaves at most one such batch that is in SQL and perhaps not in the index;
the next run finishes it, and embeds nothing of it again. Ray's object store is the buffer between the steps, bounded by Ray Data.
"""

import asyncio
import contextlib
import logging
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import ray
import ray.data

from deployments.core.config import Settings
from deployments.core.errors import InvalidRequest
from deployments.core.filing import Whole
from deployments.core.ingested import Made
from deployments.core.store import Store
from deployments.core.types import Chunk, Principal, Source, Vectors
from deployments.embedder.batching import encode
from deployments.embedder.model import load
from deployments.embedder.tokens import tokens
from deployments.retriever.chunk import embedded_text
from deployments.retriever.document import Unreadable
from deployments.retriever.service import Retriever
from pipeline.cli.client import Held
from pipeline.cli.sync import Document, plan
from pipeline.jobs import cut, recipe

FILES = 32
"""Files that are read by one task, embedded by one call of an actor, and written in one transaction."""
OBJECT_STORE_BYTES = 512 << 20
_READ_CPUS = 0.5
"""Other than an embedder's, or Ray Data would make one step of both, and a file that is read would hold up one that is embedded."""
NOTHING = np.zeros((0, 0), np.float32)

Shows = Callable[[int, int], None]
"""Told how many of how many files are through."""


class Cut(msgspec.Struct, frozen=True):
    """A file as it was read, and its passages; or why it could not be read."""

    content: bytes = b""
    title: str = ""
    text: str = ""
    chunks: tuple[Chunk, ...] = ()
    error: str = ""


@dataclass
class Report:
    """How a run ended: documents of each kind, path and reason of those that failed, and what embedding took."""

    counts: Counter[str] = field(default_factory=Counter[str])
    failed: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    passages: int = 0
    embedding_cpu_s: float = 0.0
    embedding_s: float = 0.0


_encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.Decoder(Cut).decode


@contextlib.contextmanager
def running(cores: int) -> Iterator[None]:
    """A Ray of this process alone: a core for each embedder, and one more to share out to who reads."""
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "lancedb fork", RuntimeWarning)  # Ray's processes are other programs: nothing of ours runs on
        ray.init("local", num_cpus=cores + 1, object_store_memory=OBJECT_STORE_BYTES, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        yield
    finally:
        ray.shutdown()


class Bulk:
    """Fills one vector store, while a Ray is `running`."""

    def __init__(self, settings: Settings, store: Store, retriever: Retriever, principal: Principal, store_id: str):
        self._settings, self._retriever = settings, retriever
        self._principal, self._store_id = principal, store_id
        self._mine = store.of(principal)
        self.report = Report()

    async def run(self, found: Sequence[Document], cores: int, shows: Shows, *, prune: bool = False) -> Report:
        """Make the store hold those documents; what it holds already is left alone."""
        await self._resume()
        members = await self._mine.members(self._store_id, limit=1 << 31)
        todo = plan(found, [Held(one.file_id, one.status, dict(one.attributes)) for one in members])
        self.report.counts |= Counter(unchanged=todo.unchanged, waiting=len(todo.waiting))
        done, total, begun = 0, len(todo.send), time.perf_counter()
        rows = iter(self._rows([document for document, _ in todo.send], cores)) if todo.send else iter(())
        while (batch := await asyncio.to_thread(next, rows, None)) is not None:
            await self._write([(*todo.send[number], made, vectors) for number, made, vectors in batch])
            done += len(batch)
            shows(done, total)
        self.report.embedding_s = time.perf_counter() - begun
        for file_id in (*todo.stale, *(todo.gone if prune else ())):
            await self._delete(file_id)
        self.report.counts["removed"] = len(todo.gone) if prune else 0
        return self.report

    async def _resume(self) -> None:
        """Finish what a run that was killed has left between SQL and the index."""
        for member in await self._mine.filing.unfinished(self._store_id):
            file = await self._mine.file(member.file_id)
            chunks, vectors = await self._mine.filed(self._store_id, file.id)
            source = Source(file.id, file.filename, file.title or "", member.attributes, member.created_at)
            await self._retriever.replace(self._principal, self._store_id, source, chunks, vectors)
            await self._mine.filing.complete(self._store_id, [file.id])
            self.report.counts["resumed"] += 1

    def _rows(self, documents: Sequence[Document], cores: int) -> Iterator[list[tuple[int, Cut, Vectors]]]:
        """Documents by place, cut and embedded, some at a time and in no order."""
        items = [
            {"number": number, "path": str(one.file.resolve() if one.file else ""), "name": one.path}
            for number, one in enumerate(documents)
        ]
        bare = self._settings.model_copy(update=dict.fromkeys(("sql_url", "valkey_url", "pepper", "root_key")))  # no secrets in Ray
        data = ray.data.from_items(items, override_num_blocks=-(-len(items) // FILES))
        data = data.map(partial(_cut, settings=bare), num_cpus=_READ_CPUS)  # pyright: ignore[reportArgumentType]
        workers = ray.data.ActorPoolStrategy(size=min(cores, -(-len(items) // FILES)))
        data = data.map_batches(_Embed, fn_constructor_kwargs={"settings": bare}, batch_size=FILES, compute=workers, num_cpus=1)
        for batch in data.iter_batches(batch_size=None, batch_format="numpy"):
            self.report.embedding_cpu_s += float(sum(batch["cpu_s"]))
            cuts = [_decode(packed) for packed in batch["cut"]]
            vectors = [
                np.frombuffer(packed, np.float32).reshape(len(one.chunks), -1) if one.chunks else NOTHING
                for one, packed in zip(cuts, batch["vectors"], strict=True)
            ]
            yield list(zip(map(int, batch["number"]), cuts, vectors, strict=True))

    async def _write(self, batch: Sequence[tuple[Document, tuple[str, ...], Cut, Vectors]]) -> None:
        """Keep what was read; what could not be is reported."""
        self.report.failed += [(document.path, cut.error) for document, _, cut, _ in batch if cut.error]
        good = [one for one in batch if not one[2].error]
        if not good:
            return
        limit = self._settings.retriever.chunk_tokens
        wholes = [
            Whole(
                document.path,
                cut.content,
                document.attributes,
                Made(cut.title, cut.text, cut.chunks, vectors),
                recipe(self._settings, document.sha256, document.path, limit),
            )
            for document, _, cut, vectors in good
        ]
        sources = await self._mine.filing.put(self._store_id, wholes)
        filed = [(source, whole.made.chunks, whole.made.vectors) for source, whole in zip(sources, wholes, strict=True)]
        indexed = await self._index(filed)
        await self._mine.filing.complete(self._store_id, list(indexed))
        for source, (_, old, made, _) in zip(sources, good, strict=True):
            if source.file_id in indexed:
                self.report.counts["replaced" if old else "added"] += 1
                self.report.passages += len(made.chunks)
                for file_id in old:
                    await self._delete(file_id)

    async def _index(self, filed: Sequence[tuple[Source, Sequence[Chunk], Vectors]]) -> set[str]:
        """Put new files into the index, in one commit; where it refuses one, one by one. Returns which it has."""
        try:
            await self._retriever.extend(self._principal, self._store_id, filed)
        except InvalidRequest:
            return {source.file_id for source, chunks, vectors in filed if await self._replaced(source, chunks, vectors)}
        return {source.file_id for source, _, _ in filed}

    async def _replaced(self, source: Source, chunks: Sequence[Chunk], vectors: Vectors) -> bool:
        try:
            await self._retriever.replace(self._principal, self._store_id, source, chunks, vectors)
        except InvalidRequest as error:  # too many different attributes in the store, or vectors of another model
            await self._mine.fail(self._store_id, source.file_id, "invalid_file", error.message)
            self.report.failed.append((source.filename, error.message))
            return False
        return True

    async def _delete(self, file_id: str) -> None:
        for store_id in await self._mine.delete_file(file_id):
            await self._retriever.replace(self._principal, store_id, Source(file_id), (), NOTHING)
            await self._mine.corpus.touch(store_id)


def _cut(row: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """A row of Ray Data: the file of a path, cut."""
    return {"number": row["number"], "cut": _encode(asyncio.run(_read(row["path"], row["name"], settings)))}


async def _read(path: str, name: str, settings: Settings) -> Cut:
    try:
        content = await asyncio.to_thread(Path(path).read_bytes)
        document, chunks = await cut(settings, content, name, settings.retriever.chunk_tokens, tokens(settings))
    except OSError as error:
        return Cut(error=error.strerror or "cannot be read")
    except Unreadable as error:
        return Cut(error=error.message)
    return Cut(content, document.title, document.text, tuple(chunks))


class _Embed:
    """An actor of Ray Data: one thread with the model."""

    def __init__(self, settings: Settings):
        self._encoder, self._limit = load(settings), settings.embedder.batch_tokens

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        begun = time.process_time()
        cuts = [_decode(packed) for packed in batch["cut"]]
        vectors = encode(self._encoder, [embedded_text(one.title, chunk) for one in cuts for chunk in one.chunks], self._limit)
        parts = np.split(vectors, np.cumsum([len(one.chunks) for one in cuts])[:-1])
        spent = np.zeros(len(cuts))
        spent[0] = time.process_time() - begun
        packed = np.array([part.tobytes() for part in parts], dtype=object)
        return {"number": batch["number"], "cut": batch["cut"], "vectors": packed, "cpu_s": spent}
