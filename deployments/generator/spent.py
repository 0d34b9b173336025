"""What one call of a backend came to, as far as it was heard; sans-I/O."""

from deployments.core.account import Attempt
from deployments.core.estimate import length
from deployments.core.models import Upstream
from deployments.core.types import Generation, Usage
from deployments.generator.sse import Piece

_NANO_OF_MILLIONTH = 1000
"""Costs are per million tokens, so a token costs so many billionths for each unit of them."""


class Spent:
    """Counts one call. Its tokens are those the backend tells; else roughly the prompt and what was heard, or none if nothing was."""

    def __init__(self, upstream: Upstream, generation: Generation):
        self._upstream, self._generation = upstream, generation
        self.over = False
        """Whether the model has said why it ended."""
        self._heard = False
        self._chunks = 0
        self._usage: Usage | None = None

    def take(self, piece: Piece) -> None:
        """Note a piece."""
        self._heard, self.over = True, self.over or piece.reason is not None
        self._chunks += piece.chunks
        self._usage = piece.usage or self._usage

    def attempt(self, outcome: str) -> Attempt:
        """The whole of it."""
        used = self._usage or (Usage(length(self._generation.messages), self._chunks) if self._heard else Usage())
        read, written = used.prompt_tokens, used.completion_tokens
        cost = round(_NANO_OF_MILLIONTH * (read * self._upstream.input_cost + written * self._upstream.output_cost))
        return Attempt(self._upstream.name, outcome, read, written, cost)
