"""A stage as Serve deploys it: its name, its autoscaling, its queue."""

from typing import cast

from ray import serve
from ray.serve import Deployment
from ray.serve.handle import DeploymentHandle

from deployments.core.sections import Scaling


def ingress(kind: type) -> type:
    """A service class that builds an HTTP application, as the ingress of the Serve application."""
    return cast(type, serve.ingress()(kind))


def stage(kind: type, name: str, scaling: Scaling) -> Deployment:
    """A deployment of a service class that scales on its own; health checks notice a dead replica within seconds."""
    deployment = cast(Deployment, serve.deployment(kind))
    return deployment.options(
        name=name,
        max_ongoing_requests=scaling.max_ongoing,
        max_queued_requests=scaling.max_queued,
        ray_actor_options={"num_cpus": scaling.num_cpus},
        # With INFO Serve makes a record of every call and then drops it.
        logging_config={"enable_access_log": False, "encoding": "JSON", "log_level": "WARNING"},
        health_check_period_s=2,
        health_check_timeout_s=10,
        # New code: a new replica stands before an old one goes; with one replica there would be none in between.
        max_surge_percent=100,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=20,
        autoscaling_config={
            "min_replicas": scaling.min_replicas,
            "max_replicas": scaling.max_replicas,
            "target_ongoing_requests": scaling.target_ongoing,
            "upscale_delay_s": scaling.upscale_delay_s,
            "downscale_delay_s": scaling.downscale_delay_s,
            "metrics_interval_s": 2,
            "look_back_period_s": 5,
        },
    )


def handle(kind: type, name: str, scaling: Scaling, *arguments: object) -> DeploymentHandle:
    """The handle to a stage: Serve puts it in the place of the bound deployment that this is until then."""
    return cast(DeploymentHandle, stage(kind, name, scaling).bind(*arguments))
