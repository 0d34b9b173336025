"""What ingestions have made of files: passages as rows of SQL, and the same taken over by another file of the same bytes."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import undefer

from deployments.core.filters import Value
from deployments.core.tables import FileRow, MemberRow, PassageRow
from deployments.core.types import Chunk, Vectors
from deployments.core.vault import Lock

if TYPE_CHECKING:
    from deployments.core.store import Store

_encode = msgspec.msgpack.encode
_headings = msgspec.msgpack.Decoder(tuple[str, ...]).decode
_attributes = msgspec.msgpack.Decoder(dict[str, Value | int]).decode


class Made(msgspec.Struct, frozen=True):
    """What was made of a file: its title and text, the passages and their vectors."""

    title: str
    text: str
    chunks: Sequence[Chunk]
    vectors: Vectors


class Ingested:
    """What the ingestions of one tenant have made."""

    def __init__(self, store: "Store", tenant: str):
        self._store = store
        self._tenant = tenant

    async def take(self, recipe: str) -> Made | None:
        """What was made before by the same recipe, of this file or of another; None where nothing was."""
        done = (MemberRow.tenant_id == self._tenant) & (MemberRow.recipe == recipe)  # whatever its status: passages stay until others come
        found = select(MemberRow.store_id, FileRow).join(FileRow, FileRow.id == MemberRow.file_id).where(done).limit(1)
        async with self._store.session() as session:
            first = (await session.execute(found.options(undefer(FileRow.text)))).first()
            if first is None:
                return None
            store_id, file = first
            wanted = select(PassageRow).where(PassageRow.store_id == store_id, PassageRow.file_id == file.id)
            rows = list(await session.scalars(wanted.options(undefer(PassageRow.vector)).order_by(PassageRow.number)))
            lock = (await self._store.lock(session, self._tenant)).of(file.data_key, "files", file.id)
        return await asyncio.to_thread(opened, file, rows, lock) if rows else None


def opened(file: FileRow, rows: Sequence[PassageRow], lock: Lock) -> Made | None:
    """What was made of a file, opened by its lock; None where nothing was. Takes a while for many passages. Raises Sealed."""
    if file.text is None or file.title is None:
        return None
    text = lock.open(file.text, "files", file.id, "text").decode()
    title = lock.open(file.title, "files", file.id, "title").decode()
    vectors = np.stack([_vector(row, lock) for row in rows]) if rows else np.zeros((0, 0), np.float32)
    return Made(title, text, [chunk(row, text, lock) for row in rows], vectors)


def passage(lock: Lock, store_id: str, file_id: str, chunk: Chunk, vector: Any) -> dict[str, object]:
    """The row of a passage, but for whose it is."""
    place = f"{store_id}/{file_id}/{chunk.number}"
    return {
        "store_id": store_id,
        "file_id": file_id,
        "number": chunk.number,
        "start": chunk.start,
        "end": chunk.end,
        "tokens": chunk.tokens,
        "headings": lock.seal(_encode(chunk.headings), "passages", place, "headings"),
        "attributes": lock.seal(_encode(chunk.attributes), "passages", place, "attributes") if chunk.attributes else None,
        "vector": lock.seal(vector.astype("<f4").tobytes(), "passages", place, "vector"),
    }


def chunk(row: PassageRow, text: str, lock: Lock) -> Chunk:
    """A passage of a file with that text; raises Sealed."""
    headings = _headings(lock.open(row.headings, "passages", _place(row), "headings"))
    attributes = _attributes(lock.open(row.attributes, "passages", _place(row), "attributes")) if row.attributes else {}
    return Chunk(row.number, text[row.start : row.end], headings, row.start, row.end, row.tokens, attributes)


def _vector(row: PassageRow, lock: Lock) -> Vectors:
    return np.frombuffer(lock.open(row.vector, "passages", _place(row), "vector"), "<f4")


def _place(row: PassageRow) -> str:
    return f"{row.store_id}/{row.file_id}/{row.number}"
