"""How each stage scales: the bounds that all have, and what one replica of it should carry."""

from pydantic import Field

from deployments.core.models import Section


class Scaling(Section):
    """How one stage scales: bounds, delays, and the calls a replica takes."""

    min_replicas: int = Field(default=1, ge=0, description="Replicas that stay when nothing is asked.")
    max_replicas: int = Field(default=1, ge=1, description="Replicas at most.")
    max_ongoing: int = Field(default=100, ge=1, description="Requests a replica takes at once; more wait at the caller.")
    max_queued: int = Field(default=-1, ge=-1, description="Requests that may wait at one caller; -1 is no bound.")
    upscale_delay_s: float = Field(default=3, ge=0, description="How long more replicas must be wanted before they come.")
    downscale_delay_s: float = Field(default=60, ge=0, description="How long fewer must be enough before one goes.")
    num_cpus: float = Field(default=0.1, ge=0, description="CPUs reserved per replica when placing it; not a limit.")


class OngoingScaling(Scaling):
    """A stage that scales on its ongoing calls, those that wait at their callers included."""

    target_ongoing: float = Field(default=8, gt=0, description="Ongoing calls that one replica should carry.")


class GatewayScaling(Scaling):
    """The gateway: what is open counts, and it moves seldom, as every move reloads the proxy in front of it."""

    min_replicas: int = Field(default=1, ge=1, description="Replicas that stay when nothing is asked; without one nobody is let in.")
    target_streams: float = Field(default=200, gt=0, description="Answers being followed that one replica should carry.")
    target_sockets: float = Field(default=1250, gt=0, description="WebSockets, idle ones included, that one replica should carry.")
    pause_s: float = Field(default=300, ge=0, description="Time between two changes of its number of replicas, at least.")


class EmbedderScaling(Scaling):
    """The embedder: how long the queue would take."""

    target_queue_s: float = Field(
        default=0.5, gt=0, description="Time that the texts waiting in one replica should take at most, at the rate it was seen to have."
    )


class GeneratorScaling(OngoingScaling):
    """The generator: slots, and how long callers wait for one and for their first token."""

    target_wait_s: float = Field(default=0.5, gt=0, description="How long calls may wait for a slot (p95) before one more replica comes.")
    target_ttft_s: float = Field(
        default=5,
        gt=0,
        description="How long first tokens may take (p95) before one more replica comes, where half of the slots are in use.",
    )


class WorkerScaling(Scaling):
    """The worker: jobs that are due and that no worker has taken. Only a worker can tell of them, so that one always stays."""

    min_replicas: int = Field(default=1, ge=1, description="Replicas that stay when there is nothing to do; none would never see a job.")
    target_backlog: float = Field(default=16, gt=0, description="Waiting jobs per replica.")
    target_age_s: float = Field(default=10, gt=0, description="How long the oldest may have been due before one more replica comes.")
