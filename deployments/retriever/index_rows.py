"""Rows of a Lance table: what goes in, what comes out, and the keyed digest without which nothing comes out."""

import hmac
from collections.abc import Iterable, Sequence
from hashlib import blake2b

import msgspec
import numpy as np
import pyarrow as pa

from deployments.core.errors import InvalidRequest
from deployments.core.types import Chunk, Source, Vector, Vectors
from deployments.retriever.chunk import embedded_text
from deployments.retriever.index_filters import PREFIX, cells
from deployments.retriever.search import Hit, words

MAX_ATTRIBUTES = 256
"""Different attribute names in one table; each is a column."""
OFF_LENGTH = 0.01
"""How far from one the length of a vector may be: a cosine is a dot product only between vectors of unit length."""
MAC_BYTES = 16
READ = ("record", "vector", "mac")
"""The columns that a hit is made of."""

_encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.Decoder(tuple[Source, Chunk]).decode


def schema(dimensions: int, attributes: Iterable[str] = ()) -> pa.Schema:
    """The schema of a table; `attributes` are names of columns.

    The primary key makes Lance refuse two concurrent first inserts of one file; without it both would stay.
    """
    key = pa.field("id", pa.string(), nullable=False, metadata={"lance-schema:unenforced-primary-key": "true"})
    texts = [pa.field(name, pa.string()) for name in ("file_id", "words")]
    sealed = [pa.field("record", pa.binary()), pa.field("vector", pa.list_(pa.float32(), dimensions)), pa.field("mac", pa.binary())]
    return pa.schema([key, *texts, *sealed, *(pa.field(name, pa.string()) for name in sorted(attributes))])


def checked(vectors: Vectors, count: int, dimensions: int) -> Vectors:
    """The vectors, ready for Lance, which would take infinities and any length; raises InvalidRequest."""
    if vectors.shape != (count, dimensions):
        raise InvalidRequest(f"vectors of shape {vectors.shape}, expected {(count, dimensions)}")
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    if not (np.abs(lengths - 1) <= OFF_LENGTH).all():  # so written, NaN fails as well
        raise InvalidRequest("a vector is not of unit length, or holds a value that is not finite")
    return np.ascontiguousarray(vectors, np.float32)


def rows(key: bytes, source: Source, chunks: Sequence[Chunk], vectors: Vectors) -> pa.Table:
    """The rows of one file; their attribute columns are those that they have."""
    records = [_encode((source, chunk)) for chunk in chunks]
    attributes = [cells(source.attributes | chunk.attributes) for chunk in chunks]
    names = sorted({name for row in attributes for name in row})
    columns = {
        "id": [f"{source.file_id}:{chunk.number}" for chunk in chunks],
        "file_id": [source.file_id] * len(chunks),
        "words": [words(embedded_text(source.title, chunk)) for chunk in chunks],
        "record": records,
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1]),
        "mac": [mac(key, record, vector.tobytes()) for record, vector in zip(records, vectors, strict=True)],
        **{name: [row.get(name) for row in attributes] for name in names},
    }
    return pa.table(columns, schema=schema(vectors.shape[1], names))


def attribute_columns(columns: Iterable[str]) -> set[str]:
    """Those of the columns that hold attributes."""
    return {name for name in columns if name.startswith(PREFIX)}


def mac(key: bytes, record: bytes, vector: bytes) -> bytes:
    """A digest that only who has the key can make; `key` is of one table, and the record names file and number."""
    digest = blake2b(record, digest_size=MAC_BYTES, key=key)
    digest.update(vector)  # of a length that the table fixes: where the record ends is not in doubt
    return digest.digest()


def read(key: bytes, found: pa.Table) -> list[tuple[Source, Chunk] | None]:
    """What the rows hold; None in the place of one that is not as it was written, so far as its columns were asked for."""
    columns = attribute_columns(found.column_names)
    rest = zip(found["record"].to_pylist(), vectors_of(found), found["mac"].to_pylist(), strict=True)
    read = [_record(key, *row) for row in rest]
    for name in columns:
        for number, cell in enumerate(found[name].to_pylist()):
            if (record := read[number]) and cells(record[0].attributes | record[1].attributes).get(name) != cell:
                read[number] = None
    return read


def hit(source: Source, chunk: Chunk, similarity: float, bm25: float) -> Hit:
    """A row as a search found it."""
    attributes = source.attributes | chunk.attributes
    return Hit(source.file_id, source.filename, source.title, chunk, similarity, attributes, source.created_at, bm25)


def widened(some: pa.Table, to: pa.Schema) -> pa.Table:
    """The rows with every column of a table, those that they lack empty."""
    held = [some[field.name] if field.name in some.column_names else pa.nulls(some.num_rows, field.type) for field in to]
    return pa.table(held, schema=to)


def vectors_of(found: pa.Table) -> Vectors:
    """The vectors of rows, shape (rows, dimensions)."""
    column = found["vector"].combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size)


def _record(key: bytes, record: bytes | None, vector: Vector, given: bytes | None) -> tuple[Source, Chunk] | None:
    if record is None or given is None or not hmac.compare_digest(mac(key, record, vector.tobytes()), given):
        return None
    return _decode(record)
