"""Replicas, cores, memory and slots that a load needs, and how far such a sum is from what was measured.

A replica is one event loop and fills one core at most. The sums are linear: what batches under load (the tick of the response log, the
embedder's batches) is counted at the load that the costs were measured under, so that a busier stack costs a little less than is said.
"""

from dataclasses import dataclass
from math import ceil

from deployments.core.config import Settings
from pipeline.planning.costs import STAGES, Cost, Costs, Point

FULL = 1.0
"""Cores that one process of one event loop can fill."""

MEASURED_PROMPT_TOKENS = 20
"""Of the questions that points are measured with; their part of the cost is small."""


@dataclass(frozen=True, slots=True)
class Demand:
    """A load: what is asked a second, and how long it is answered for."""

    requests_per_s: float
    streams: float
    """Answers being written at once."""
    prompt_tokens: float = 500
    """Of the caller's own text; what retrieval adds is in its cost."""
    output_tokens: float = 200
    retrieval: bool = True
    headroom: float = 0.3
    """More of everything than the load needs: 0.3 is 30 %."""


@dataclass(frozen=True, slots=True)
class Need:
    """What one part needs."""

    part: str
    replicas: int
    cores: float
    """Busy on the average of the load, without headroom."""
    memory_bytes: float
    reason: str
    """What decides the number of replicas."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What all parts need."""

    needs: tuple[Need, ...]
    cores: int
    """With headroom."""
    memory_bytes: float
    slots: int
    """Answers that the model backends must be able to write at once."""


@dataclass(frozen=True, slots=True)
class Check:
    """A measured point and what the same costs predict for it."""

    point: Point
    predicted_per_s: float

    @property
    def error(self) -> float:
        """How far the prediction is off, as a part of what was measured."""
        return self.predicted_per_s / self.point.answers_per_s - 1


def sized(demand: Demand, costs: Costs, settings: Settings) -> Plan:
    """Return what a load needs under these settings."""
    more = 1 + demand.headroom
    needs = tuple(_need(name, cost, demand, settings) for name, cost in costs.parts.items())
    cores = ceil(sum(need.cores for need in needs) * more)
    return Plan(needs, cores, sum(need.memory_bytes for need in needs) * more, ceil(demand.streams * more))


def _need(name: str, cost: Cost, demand: Demand, settings: Settings) -> Need:
    more = 1 + demand.headroom
    busy = demand.requests_per_s * cost.busy_s(demand.prompt_tokens, demand.output_tokens, demand.retrieval)
    bounds = {"CPU": busy * more / FULL}
    if name == "gateway":
        bounds["streams"] = demand.streams * more / settings.gateway.max_streams
    elif name == "generator":
        bounds["streams"] = demand.streams * more / settings.generator.scaling.target_ongoing
    reason = max(bounds, key=lambda bound: bounds[bound])
    replicas = max(ceil(bounds[reason]), 1) if name in STAGES else 1
    if name not in STAGES:
        reason = "more than one Valkey can do" if name == "valkey" and busy > FULL else "one to a node"
    elif bounds[reason] <= 1:
        reason = "one is enough"
    memory = replicas * cost.memory_bytes + demand.streams * cost.stream_bytes
    return Need(name, replicas, busy + replicas * cost.idle_cores, memory, reason)


def checked(costs: Costs, cores: float) -> list[Check]:
    """Return the points that were measured on so many cores beside the rate that the costs predict for them.

    The machine is full when stack, simulator and clients together use its cores, or when one process uses one.
    """
    return [Check(point, _limit(costs, cores - point.foreign_cores, point)) for point in costs.points]


def _limit(costs: Costs, cores: float, point: Point) -> float:
    each = {name: cost.busy_s(MEASURED_PROMPT_TOKENS, point.output_tokens, point.retrieval) for name, cost in costs.parts.items()}
    each |= {name: cost.busy_s(MEASURED_PROMPT_TOKENS, point.output_tokens, point.retrieval) for name, cost in costs.harness.items()}
    idle = sum(cost.idle_cores for cost in costs.parts.values())
    busiest = max(each[name] for name in each if name != "ray")  # ray is many processes
    return min((cores - idle) / sum(each.values()), FULL / busiest)
