"""A collection in a real index, and what the two searches find in it for each question."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np

from deployments.core.config import Retriever
from deployments.core.types import Chunk, Principal, Query, Source, Vector
from deployments.retriever.index import Index, Shelf
from deployments.retriever.search import Hit
from pipeline.evaluate.collections import Collection, Document
from pipeline.evaluate.embeddings import Embeddings

DEPTH = 100
"""Passages that each search is asked for."""
STORE = "store"
NOBODY = Principal("evaluation", "key", frozenset())


class Found(msgspec.Struct, frozen=True):
    """One question as it was searched, and what the two searches found, best first; a hit's `number` is the place of its document."""

    text: str
    vector: Vector
    nearest: list[Hit]
    matching: list[Hit]

    def query(self, limit: int, **others: object) -> Query:
        """The query that asks for so many passages of any length."""
        return Query(NOBODY, STORE, self.text, self.vector, limit, 10**9, **others)  # pyright: ignore[reportArgumentType]


def find(collection: Collection, asked: Mapping[str, str], embeddings: Embeddings, depth: int = DEPTH) -> dict[str, Found]:
    """What is found for each text of `asked`, by the name of its question."""
    return asyncio.run(_find(collection.documents, asked, embeddings, depth))


def names(collection: Collection, hits: Iterable[Hit]) -> list[str]:
    """The documents that some hits are."""
    return [collection.documents[hit.chunk.number].id for hit in hits]


async def _find(documents: Sequence[Document], asked: Mapping[str, str], embeddings: Embeddings, depth: int) -> dict[str, Found]:
    vectors = embeddings.of([f"{document.title}\n{document.text}" for document in documents])
    chunks = [
        Chunk(number, document.text, (document.title,), 0, len(document.text), len(document.text) // 4)
        for number, document in enumerate(documents)
    ]
    with TemporaryDirectory() as folder:
        settings = Retriever(open_tables=1, indexed_rows=10**9, recall_bytes=0)
        index = Index(Path(folder), b"evaluation", _never, settings)
        shelf = index.of(NOBODY)
        # One commit for all: the passages of each document get their own file back when they are found.
        await shelf.replace(STORE, Source("all"), chunks, vectors)
        await index.close()
        queries = embeddings.of(list(asked.values()))
        return {
            name: await _search(shelf, documents, text, vector, depth)
            for (name, text), vector in zip(asked.items(), np.array(queries), strict=True)
        }


async def _search(shelf: Shelf, documents: Sequence[Document], text: str, vector: Vector, depth: int) -> Found:
    nearest, matching = await shelf.search(STORE, text, vector, depth)
    return Found(text, vector, _own(nearest, documents), _own(matching, documents))


async def _never(principal: Principal, store_id: str) -> bool:
    return False


def _own(hits: list[Hit], documents: Sequence[Document]) -> list[Hit]:
    return [
        msgspec.structs.replace(hit, file_id=document.file_id, title=document.title, created_at=document.created_at)
        for hit in hits
        for document in [documents[hit.chunk.number]]
    ]
