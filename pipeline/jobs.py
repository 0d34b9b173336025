"""What the worker does."""

import asyncio
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from deployments.core.config import Settings
from deployments.core.ports import Embeds, Retrieves
from deployments.core.store import Store, Work
from deployments.core.types import Chunk, Vectors
from deployments.embedder.tokens import Tokens, tokens
from deployments.retriever.chunk import chunk, embedded_text
from deployments.retriever.document import Document, Unreadable
from deployments.retriever.parse import parse
from deployments.worker.work import Reason, Rejected

_SLICE_TEXTS = 64
"""Passages embedded in one call: what fits a handle message, and the most that is lost when the embedder dies."""

_REASONS: dict[str, Reason] = {"file_unsupported": "unsupported_file", "file_binary": "unsupported_file"}


@dataclass(frozen=True)
class Ingest:
    """Reads a file of a vector store into the index; implements the worker's `Handles`."""

    settings: Settings
    embeds: Embeds
    retrieves: Retrieves

    async def run(self, store: Store, work: Work) -> None:
        """Parse, chunk, embed; then fill the index, and last mark the file completed with its text and passages.

        The index changes in one step, so a search sees the whole file or nothing of it. A crash between that step and the last one
        leaves the file in progress: the next attempt does the same again. Raises Rejected, and NotFound for a file deleted meanwhile.
        """
        mine = store.of(work.principal)
        file = await mine.file(work.file_id)
        document, chunks = await asyncio.to_thread(self._read, await mine.content(work.file_id), file.filename)
        vectors = await self._embed(document.title, chunks)
        await self.retrieves.replace(work.principal, work.store_id, work.file_id, file.filename, document.title, chunks, vectors)
        await mine.complete(work.store_id, work.file_id, document.title, document.text, chunks, vectors)

    async def undo(self, store: Store, work: Work) -> None:
        """Take the file out of the index."""
        await self.retrieves.replace(work.principal, work.store_id, work.file_id, "", "", (), np.zeros((0, 0), np.float32))

    def _read(self, content: bytes, filename: str) -> tuple[Document, list[Chunk]]:
        try:
            document = parse(content, filename, self.settings.gateway.max_upload_bytes)
        except Unreadable as error:
            raise Rejected(_REASONS.get(error.wire_code, "invalid_file"), error.message) from error
        return document, chunk(document, self.settings.retriever.chunk_tokens, self._tokens.count)

    async def _embed(self, title: str, chunks: list[Chunk]) -> Vectors:
        texts = [embedded_text(title, one) for one in chunks]
        slices = [await self.embeds.embed(texts[at : at + _SLICE_TEXTS]) for at in range(0, len(texts), _SLICE_TEXTS)]
        return np.concatenate(slices)

    @cached_property
    def _tokens(self) -> Tokens:
        return tokens(self.settings)
