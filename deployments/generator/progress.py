"""How far an answer is, over all attempts at it; sans-I/O."""

import msgspec

from deployments.core.errors import HeadraceError, StreamInterrupted
from deployments.core.models import Contract
from deployments.core.types import Generation
from deployments.generator.resumed import own, spoken
from deployments.generator.sse import Piece, Seam


class Progress:
    """What the model has said, and what the next backend is to do about it.

    `promised` is the contract of an answer that has begun. `shown` is what the next backend is shown of the answer, to go on behind it.
    Under `restart` that is nothing, and it has to say the same again, which is dropped.
    """

    def __init__(self, generation: Generation, promised: Contract):
        self.shown = self._said = spoken(own(generation)[0])
        self.over = False
        self._promised: Contract = promised
        self._whole = generation.sampling.owes_json
        self._called = False
        self._again = ""
        self._seam: Seam | None = None

    @property
    def contract(self) -> Contract | None:
        """What holds for another attempt: nothing before something was said, and none at all within a call or within JSON."""
        if self._called or (self._said and self._whole):
            return "fail"
        return self._promised if self._said else None

    def take(self, piece: Piece) -> Piece:
        """What is new in a piece; raises StreamInterrupted where a backend that begins anew says something else."""
        if self._again:
            piece = self._repeated(piece)
        self._called = self._called or bool(piece.calls)
        self.over = self.over or piece.reason is not None
        self._said += piece.text
        if self._seam:
            piece, self._seam = msgspec.structs.replace(piece, seam=self._seam), None
        return piece

    def broke(self, error: HeadraceError) -> None:
        """Note that a backend broke off; the next one is asked now."""
        if self.contract is None:
            return
        self.shown, self._again = (self._said, "") if self.contract == "continue" else ("", self._said)
        self._seam = Seam(error.wire_code, self.shown)

    def _repeated(self, piece: Piece) -> Piece:
        same = min(len(self._again), len(piece.text))
        if piece.text[:same] != self._again[:same] or (piece.reason and same < len(self._again)):
            raise StreamInterrupted("the answer broke off, and begun anew it says something else")
        self._again = self._again[same:]
        return msgspec.structs.replace(piece, text=piece.text[same:], logprobs=())
