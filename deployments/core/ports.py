"""What the stages promise each other; each has a client in its folder and a fake in tests/fakes.py."""

from collections.abc import Sequence
from typing import Protocol

from deployments.core.types import Chunk, Citation, Generation, Outcome, Passage, Principal, Query, Route, Source, Turn, Vector, Vectors


class Embeds(Protocol):
    """Text to unit-length vectors."""

    async def embed(self, texts: Sequence[str], caller: Principal | None = None) -> Vectors:
        """Vectors of shape (len(texts), dimensions), in the order of `texts`.

        Queries of a caller are kept for its tenant; without one nothing is.
        """
        ...


class Retrieves(Protocol):
    """Searches and fills the vector stores of one principal at a time."""

    async def search(self, query: Query) -> tuple[Passage, ...]:
        """The best passages, best first, deduplicated, within the query's budget; () where none is relevant."""
        ...

    async def replace(self, principal: Principal, store_id: str, source: Source, chunks: Sequence[Chunk], vectors: Vectors) -> None:
        """Make `chunks` the whole of that file in the store, at once; no chunks removes the file."""
        ...

    async def drop(self, principal: Principal, store_id: str) -> None:
        """Forget everything of a store, which need not be there."""
        ...


Filed = tuple[Source, Sequence[Chunk], Vectors]
"""A file of a vector store as the index holds it, or consecutive chunks of it."""


class Rebuilds(Protocol):
    """Builds a store's index anew, in the place of the one it has; what changes meanwhile is in the new one as well."""

    async def begin(self, principal: Principal, store_id: str, build: str, dimensions: int) -> None:
        """Begin a build of that name; another one is given up."""
        ...

    async def add(self, principal: Principal, store_id: str, build: str, files: Sequence[Filed]) -> None:
        """Add files to the build; raises Conflict where it has been given up."""
        ...

    async def end(self, principal: Principal, store_id: str, build: str) -> None:
        """Put the build in force; raises Conflict where it has been given up."""
        ...

    async def drop(self, principal: Principal, store_id: str) -> None:
        """Remove the store's index with all its bytes."""
        ...


class Routes(Protocol):
    """Decides where a turn goes."""

    async def route(self, turn: Turn, vector: Vector) -> Route:
        """The route of a turn, whose question has that embedding."""
        ...


class Relay(Protocol):
    """What stands between the model's text and the log of one response; sans-I/O."""

    def feed(self, text: str) -> list[str | Citation]:
        """Text and citations to write, in order, now that the model has written `text`."""
        ...

    def flush(self) -> list[str | Citation]:
        """What is left when the model has ended."""
        ...


class Generates(Protocol):
    """Runs one model call into the response log."""

    async def generate(self, generation: Generation) -> Outcome:
        """Write the answer to the log and say how it ended.

        Raises BackendFailed, ContextTooLong, Overloaded or DeadlineExceeded before the first delta, and StreamInterrupted after it.
        """
        ...
