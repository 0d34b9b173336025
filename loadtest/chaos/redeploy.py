"""`python -m loadtest.chaos.redeploy PLAN ADDRESS` deploys a running application again with another health-check period of every stage.

It runs with the environment of the stack's own driver, and joins the cluster whose GCS has that address.
"""

import json
import sys
from pathlib import Path

import ray
from ray import serve
from ray.serve.context import _get_global_client  # pyright: ignore[reportPrivateUsage] — there is no public way to deploy a config without a dashboard
from ray.serve.schema import ServeDeploySchema

PERIOD_S = 3.0
"""Serve takes this change without a restart; the stages have 1."""


def main() -> None:
    """Deploy it, and return when every stage is healthy."""
    plan = json.loads(Path(sys.argv[1]).read_text())
    ray.init(address=sys.argv[2], namespace="serve", log_to_driver=False)
    names = list(serve.status().applications[plan["serve"]["applications"][0]["name"]].deployments)
    plan["serve"]["applications"][0]["deployments"] = [{"name": name, "health_check_period_s": PERIOD_S} for name in names]
    client = _get_global_client()
    if client is None:
        raise SystemExit("Serve does not run there")
    client.deploy_apps(ServeDeploySchema.model_validate(plan["serve"]), _blocking=True)
    ray.shutdown()


if __name__ == "__main__":
    main()
