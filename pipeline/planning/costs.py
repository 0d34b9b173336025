"""What a request and a token cost each part of the stack, as `python -m loadtest.costs` measured it."""

from pathlib import Path
from typing import Any

from pydantic import Field

from deployments.core.models import Section

SHIPPED = Path(__file__).with_name("costs.json")
"""Measured on the machine class that the file names; a file of one's own machine says more."""

STAGES = ("gateway", "embedder", "retriever", "router", "generator", "worker")
"""The parts that have replicas; of the others (edge, valkey, ray) there is one to a node."""


class Cost(Section):
    """CPU of one part in seconds, and its memory in bytes."""

    idle_cores: float = Field(ge=0)
    """Cores that one process of it uses while nothing is asked."""
    request_s: float = Field(ge=0)
    retrieval_s: float = Field(ge=0)
    """More than that for a request that is answered from passages, which are in its prompt."""
    prompt_token_s: float = Field(ge=0)
    output_token_s: float = Field(ge=0)
    memory_bytes: int = Field(ge=0)
    stream_bytes: int = Field(ge=0)
    """For each answer that is being written."""

    def busy_s(self, prompt_tokens: float, output_tokens: float, retrieval: bool) -> float:
        """CPU seconds of one request."""
        passages = self.retrieval_s if retrieval else 0.0
        return self.request_s + passages + prompt_tokens * self.prompt_token_s + output_tokens * self.output_token_s


class Point(Section):
    """A load that was measured at its limit, with simulator and clients on the same machine."""

    retrieval: bool
    streams: int
    output_tokens: int
    answers_per_s: float
    busy_cores: float
    foreign_cores: float
    """What other processes used meanwhile."""


class Costs(Section):
    """All of it, with the record of how it was measured."""

    record: dict[str, Any]
    parts: dict[str, Cost]
    harness: dict[str, Cost]
    """The simulator and the clients, which share the machine with the stack where a point is measured."""
    points: tuple[Point, ...]


def read(path: Path = SHIPPED) -> Costs:
    """The costs in a file; OSError or pydantic's ValidationError where there are none."""
    return Costs.model_validate_json(path.read_bytes())
