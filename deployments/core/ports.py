"""What the stages promise each other; each has a client in its folder and a fake in tests/fakes.py."""

from collections.abc import Sequence
from typing import Protocol

from deployments.core.types import Chunk, Citation, Generation, Outcome, Passage, Principal, Query, Route, Source, Turn, Vector, Vectors


class Embeds(Protocol):
    """Text to unit-length vectors."""

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors of shape (len(texts), dimensions), in the order of `texts`."""
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


class Routes(Protocol):
    """Decides where a turn goes."""

    async def route(self, turn: Turn, vector: Vector) -> Route:
        """The route of a turn, whose question has that embedding; raises NoSuchModel."""
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
