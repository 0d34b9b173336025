"""A stage as Serve deploys it: its name, its autoscaling, its queue, and how long it may take to end."""

from typing import cast

from ray import serve
from ray.serve import Deployment
from ray.serve.config import AutoscalingPolicy
from ray.serve.handle import DeploymentHandle

from deployments.core.scaling import EmbedderScaling, GatewayScaling, GeneratorScaling, OngoingScaling, Scaling, WorkerScaling
from pipeline.policies import ONGOING, Kind, Policy

_BUSY = 1.0
"""The part of its time that a replica works, or of its room that is taken, at which it carries what it can."""


def signals(scaling: Scaling) -> list[tuple[str, float, Kind]]:
    """What a stage scales on: names of what its replicas report, what one should carry, and what it says. Raises TypeError."""
    match scaling:
        case GatewayScaling():
            return [("streams", scaling.target_streams, "load"), ("sockets", scaling.target_sockets, "load")]
        case EmbedderScaling():
            return [("queue_s", scaling.target_queue_s, "load"), ("busy", _BUSY, "keep")]
        case GeneratorScaling():
            waits: list[tuple[str, float, Kind]] = [
                ("wait_s", scaling.target_wait_s, "strain"),
                ("ttft_s", scaling.target_ttft_s, "strain"),
            ]
            return [(ONGOING, scaling.target_ongoing, "load"), *waits]
        case OngoingScaling():
            return [(ONGOING, scaling.target_ongoing, "load")]
        case WorkerScaling():
            return [("backlog", scaling.target_backlog, "whole"), ("age_s", scaling.target_age_s, "strain"), ("busy", _BUSY, "keep")]
        case _:
            raise TypeError(f"nothing is known of what {type(scaling).__name__} scales on")


def policy(scaling: Scaling) -> AutoscalingPolicy:
    """The policy of a stage as Serve takes it: a class by its name, and what it is made with as JSON."""
    pause_s = scaling.pause_s if isinstance(scaling, GatewayScaling) else 0
    kwargs = {"signals": signals(scaling), "pause_s": pause_s}
    return AutoscalingPolicy(policy_function=f"{Policy.__module__}:{Policy.__name__}", policy_kwargs=kwargs)


def ingress(kind: type) -> type:
    """A service class that builds an HTTP application, as the ingress of the Serve application."""
    return cast(type, serve.ingress()(kind))


def stage(kind: type, name: str, scaling: Scaling, drain_s: float) -> Deployment:
    """A deployment of a service class that scales on its own; health checks notice a dead replica within seconds.

    One that ends takes no new calls and has `drain_s` for those it has: longer than the longest answer, so that none is cut.
    """
    deployment = cast(Deployment, serve.deployment(kind))
    return deployment.options(
        name=name,
        max_ongoing_requests=scaling.max_ongoing,
        max_queued_requests=scaling.max_queued,
        ray_actor_options={"num_cpus": scaling.num_cpus},
        # With INFO Serve makes a record of every call and then drops it.
        logging_config={"enable_access_log": False, "encoding": "JSON", "log_level": "WARNING"},
        health_check_period_s=1,
        health_check_timeout_s=10,
        # New code: a new replica stands before an old one goes; with one replica there would be none in between.
        max_surge_percent=100,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=drain_s,
        autoscaling_config={
            "min_replicas": scaling.min_replicas,
            "max_replicas": scaling.max_replicas,
            "policy": policy(scaling),
            "upscale_delay_s": scaling.upscale_delay_s,
            "downscale_delay_s": scaling.downscale_delay_s,
            "metrics_interval_s": 2,
            "look_back_period_s": 5,
        },
    )


def handle(kind: type, name: str, scaling: Scaling, drain_s: float, *arguments: object) -> DeploymentHandle:
    """The handle to a stage: Serve puts it in the place of the bound deployment that this is until then."""
    return cast(DeploymentHandle, stage(kind, name, scaling, drain_s).bind(*arguments))
