"""Brings the calls of functions into one form, whatever a backend makes of them; sans-I/O."""

from collections.abc import Callable, Sequence

from deployments.core.errors import BackendFailed
from deployments.generator.sse import CallPiece

MAX_CALLS = 128
"""Calls in one answer."""


class Calls:
    """Numbers calls from 0 in their order; each has an id and a name, which come once and first.

    Backends differ: some give no ids, some repeat id and name in every piece, some number all calls 0 and tell them apart by id.
    """

    def __init__(self, new_id: Callable[[], str]):
        self._new_id = new_id
        self._open: dict[int, tuple[int, str | None]] = {}
        self.count = 0

    def feed(self, pieces: Sequence[CallPiece]) -> list[CallPiece]:
        """The same pieces in that form; raises BackendFailed for a call without a name, or one too many."""
        return [self._piece(piece) for piece in pieces]

    def _piece(self, piece: CallPiece) -> CallPiece:
        place, known = self._open.get(piece.index, (-1, None))
        if place >= 0 and (not piece.id or piece.id == known):
            return CallPiece(place, None, None, piece.arguments)
        if not piece.name:
            raise BackendFailed("the model backend called a function without a name")
        if self.count == MAX_CALLS:
            raise BackendFailed(f"the model backend made more than {MAX_CALLS} calls")
        self._open[piece.index] = self.count, piece.id
        self.count += 1
        return CallPiece(self.count - 1, piece.id or self._new_id(), piece.name, piece.arguments)
