"""How each stage scales, in the words of Serve."""

from typing import Any

from deployments.core.config import Scaling


def options(name: str, scaling: Scaling) -> dict[str, Any]:
    """Deployment options of a stage: its autoscaling, its queue, and health checks that notice a dead replica within seconds."""
    return {
        "name": name,
        "max_ongoing_requests": scaling.max_ongoing,
        "max_queued_requests": scaling.max_queued,
        "ray_actor_options": {"num_cpus": scaling.num_cpus},
        "logging_config": {"enable_access_log": False, "encoding": "JSON"},
        "health_check_period_s": 2,
        "health_check_timeout_s": 10,
        "graceful_shutdown_wait_loop_s": 0.5,
        "graceful_shutdown_timeout_s": 20,
        "autoscaling_config": {
            "min_replicas": scaling.min_replicas,
            "max_replicas": scaling.max_replicas,
            "target_ongoing_requests": scaling.target_ongoing,
            "upscale_delay_s": scaling.upscale_delay_s,
            "downscale_delay_s": scaling.downscale_delay_s,
            "metrics_interval_s": 1,
            "look_back_period_s": 5,
        },
    }
