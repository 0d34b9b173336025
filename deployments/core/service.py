"""What the replica of every stage does when it begins."""

import logging
from typing import cast

from ray import serve
from ray.serve.exceptions import RayServeException
from ray.util import metrics

from deployments.core import spans
from deployments.core.config import Settings
from deployments.core.telemetry import Makes, export


def begin(stage: str, settings: Settings) -> None:
    """Measure and make spans from now on; outside of a replica nothing is measured."""
    try:
        serve.get_replica_context()
    except RayServeException:
        return
    ours = logging.getLogger("headrace")
    ours.setLevel(logging.INFO)
    for handler in logging.getLogger("ray.serve").handlers:
        ours.addHandler(handler)  # the lines of turns go where Serve's lines of this replica go
    spans.start(settings.telemetry, stage)
    if settings.telemetry.metrics:
        export(cast(Makes, metrics), stage)
