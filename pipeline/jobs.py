"""Ingestion, as the worker does it."""

import asyncio
import contextlib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath

import msgspec
import numpy as np

from deployments.core.config import Settings
from deployments.core.errors import InvalidRequest, NotFound
from deployments.core.ingested import Made
from deployments.core.jobs import Job
from deployments.core.ports import Embeds, Retrieves
from deployments.core.types import Chunk, Source, Vectors
from deployments.embedder.tokens import MAX_TOKENS, Tokens, tokens
from deployments.retriever.apart import Bounds, read
from deployments.retriever.chunk import VERSION, chunk, embedded_text
from deployments.retriever.document import Document, Unreadable
from deployments.worker.work import Means, Reason, Rejected

_SLICE_TEXTS = 64
"""Passages embedded in one call: what fits a handle message, and the most that is lost when the embedder dies."""
_SLICES_AT_ONCE = 2
"""Of one file: a long one keeps two embedders at work."""

WINDOW_TOKENS = MAX_TOKENS - 2
"""What the embedder reads of a title path with its text: two of its tokens are special."""

_REASONS: dict[str, Reason] = {"file_unsupported": "unsupported_file", "file_binary": "unsupported_file"}


def recipe(settings: Settings, sha256: str, filename: str, limit_tokens: int) -> str:
    """A digest of all that passages and their vectors depend on; the name decides on the format, and may be the title."""
    parts = (VERSION, sha256, PurePosixPath(filename).name, limit_tokens, settings.embedder.revision)
    return hashlib.sha256(msgspec.msgpack.encode(parts)).hexdigest()


async def cut(settings: Settings, content: bytes, filename: str, limit_tokens: int, counter: Tokens) -> tuple[Document, Sequence[Chunk]]:
    """The document in a file and its passages; raises Unreadable."""
    retriever = settings.retriever
    bounds = Bounds(settings.gateway.max_upload_bytes, retriever.parse_timeout_s, retriever.parse_memory_bytes)
    document = await read(content, filename, bounds)
    return document, await asyncio.to_thread(chunk, document, limit_tokens, counter.count, WINDOW_TOKENS)


@dataclass(frozen=True)
class Ingest:
    """Reads a file of a vector store into the index; implements the worker's `Handles`. Its subject is `store/file`."""

    settings: Settings
    embeds: Embeds
    retrieves: Retrieves
    at_once: int = 3
    """Three: two embedders have work while one file is read and written."""

    @property
    def lease_s(self) -> float:
        """Long: a file takes a while, and nobody waits for its first word."""
        return self.settings.worker.lease_s

    async def run(self, means: Means, job: Job) -> None:
        """Parse, chunk, embed; then fill the index, and last mark the file completed with its text and passages.

        Where the same was made of the same bytes before, it is taken over from SQL instead, and nothing is embedded.
        The index changes in one step, so a search sees the whole file or nothing of it. A crash between that step and the last one
        leaves the file in progress: the next attempt does the same again. Raises Rejected, and NotFound for a file deleted meanwhile.
        """
        store_id, _, file_id = job.subject.partition("/")
        mine = means.store.of(job.principal)
        file, asked = await mine.file(file_id), await mine.member(store_id, file_id)
        limit = asked.chunk_tokens or self.settings.retriever.chunk_tokens
        made_by = recipe(self.settings, file.sha256, file.filename, limit)
        made = await mine.ingested.take(made_by) or await self._make(await mine.content(file_id), file.filename, limit)
        member = await mine.member(store_id, file_id)
        source = Source(file_id, file.filename, made.title, member.attributes, member.created_at)
        try:
            await self.retrieves.replace(job.principal, store_id, source, made.chunks, made.vectors)
        except InvalidRequest as error:  # too many different attributes in the store, or vectors of another model
            raise Rejected("invalid_file", error.message) from error
        await mine.complete(store_id, file_id, made.title, made.text, made.chunks, made.vectors, job, made_by)

    async def give_up(self, means: Means, job: Job, code: Reason, message: str) -> None:
        """Mark the file failed, and take it out of the index."""
        store_id, _, file_id = job.subject.partition("/")
        await self._undo(means, job)
        with contextlib.suppress(NotFound):
            await means.store.of(job.principal).fail(store_id, file_id, code, message, job)

    async def lost(self, means: Means, job: Job) -> None:
        """Take the file out of the index where it was deleted or called off meanwhile."""
        store_id, _, file_id = job.subject.partition("/")
        try:
            member = await means.store.of(job.principal).member(store_id, file_id)
        except NotFound:
            await self._undo(means, job)
        else:
            if member.status == "cancelled":
                await self._undo(means, job)

    async def _undo(self, means: Means, job: Job) -> None:
        store_id, _, file_id = job.subject.partition("/")
        await self.retrieves.replace(job.principal, store_id, Source(file_id), (), np.zeros((0, 0), np.float32))
        await means.store.of(job.principal).corpus.touch(store_id)

    async def _make(self, content: bytes, filename: str, limit_tokens: int) -> Made:
        try:
            document, chunks = await cut(self.settings, content, filename, limit_tokens, self._tokens)
        except Unreadable as error:
            raise Rejected(_REASONS.get(error.wire_code, "invalid_file"), error.message) from error
        return Made(document.title, document.text, chunks, await self._embed(document.title, chunks))

    async def _embed(self, title: str, chunks: Sequence[Chunk]) -> Vectors:
        texts = [embedded_text(title, one) for one in chunks]
        slices = [texts[at : at + _SLICE_TEXTS] for at in range(0, len(texts), _SLICE_TEXTS)]
        vectors = list[Vectors]()
        for at in range(0, len(slices), _SLICES_AT_ONCE):
            vectors += await asyncio.gather(*map(self.embeds.embed, slices[at : at + _SLICES_AT_ONCE]))
        return np.concatenate(vectors)

    @cached_property
    def _tokens(self) -> Tokens:
        return tokens(self.settings)
