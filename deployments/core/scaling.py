"""How each stage scales: the bounds that all have, and what one replica of it should carry.

Each stage has a class of its own, so that whoever sets one of its values leaves the others as they are.
"""

from typing import Annotated

from pydantic import Field

from deployments.core.models import Section

Most = Annotated[int, Field(ge=1, description="Replicas at most.")]
Least = Annotated[int, Field(ge=1, description="Replicas that stay when nothing is asked; without one nobody would see that more is.")]
Ongoing = Annotated[int, Field(ge=1, description="Requests a replica takes at once; more wait at the caller.")]
Queued = Annotated[int, Field(ge=-1, description="Requests that may wait at one caller; -1 is no bound.")]
Target = Annotated[float, Field(gt=0, description="Calls that one replica should carry, those that wait at their callers included.")]


class Scaling(Section):
    """How one stage scales: bounds, delays, and the calls a replica takes."""

    min_replicas: int = Field(default=1, ge=0, description="Replicas that stay when nothing is asked.")
    max_replicas: Most = 1
    max_ongoing: Ongoing = 100
    max_queued: Queued = -1
    upscale_delay_s: float = Field(default=3, ge=0, description="How long more replicas must be wanted before they come.")
    downscale_delay_s: float = Field(default=60, ge=0, description="How long fewer must be enough before one goes.")
    num_cpus: float = Field(default=0.1, ge=0, description="CPUs reserved per replica when placing it; not a limit.")


class GatewayScaling(Scaling):
    """The gateway: what is open counts, and it moves seldom, as every move reloads the proxy in front of it."""

    min_replicas: Least = 1
    max_ongoing: Ongoing = 4096
    target_streams: float = Field(default=200, gt=0, description="Answers being followed that one replica should carry.")
    target_sockets: float = Field(default=1250, gt=0, description="WebSockets, idle ones included, that one replica should carry.")
    pause_s: float = Field(default=300, ge=0, description="Time between two changes of its number of replicas, at least.")


class EmbedderScaling(Scaling):
    """The embedder: how long the queue would take."""

    max_replicas: Most = 2
    max_ongoing: Ongoing = 128
    target_queue_s: float = Field(
        default=0.5, gt=0, description="How long the texts waiting in one replica should take at most, at the rate it was seen to have."
    )


class OngoingScaling(Scaling):
    """A stage that scales on its ongoing calls."""

    max_replicas: Most = 2
    target_ongoing: Target


class RetrieverScaling(OngoingScaling):
    """The retriever: searches under way."""

    max_ongoing: Ongoing = 64
    target_ongoing: Target = 8


class RouterScaling(OngoingScaling):
    """The router: decisions under way."""

    max_ongoing: Ongoing = 256
    target_ongoing: Target = 32


class GeneratorScaling(OngoingScaling):
    """The generator: slots, and how long callers wait for one and for their first token."""

    max_ongoing: Ongoing = 256
    max_queued: Queued = 256
    target_ongoing: Target = 128
    target_wait_s: float = Field(default=0.5, gt=0, description="How long calls may wait for a slot (p95) before one more replica comes.")
    target_ttft_s: float = Field(
        default=5,
        gt=0,
        description="How long first tokens may take (p95) before one more replica comes, where half of the slots are in use.",
    )


class WorkerScaling(Scaling):
    """The worker: jobs that are due and that no worker has taken. Only a worker can tell of them, so that one always stays."""

    min_replicas: Least = 1
    max_ongoing: Ongoing = 16
    target_backlog: float = Field(default=16, gt=0, description="Waiting jobs per replica.")
    target_age_s: float = Field(default=10, gt=0, description="How long the oldest may have been due before one more replica comes.")
