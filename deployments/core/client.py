"""Calling another stage: one place where what Ray raises becomes an error of ours."""

import asyncio
from typing import Any, cast

from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentResponse, DeploymentResponseGenerator

from deployments.core.errors import HeadraceError, Overloaded, StreamInterrupted


async def call(response: DeploymentResponse[Any] | DeploymentResponseGenerator[Any]) -> Any:
    """The result of a unary call; cancelling this cancels the call.

    Raises what the stage raised where that is a HeadraceError, and Overloaded where no replica took or finished the call.
    """
    try:
        return await cast(DeploymentResponse[Any], response)
    except asyncio.CancelledError as error:
        response.cancel()
        if (task := asyncio.current_task()) and task.cancelling():
            raise
        # Not we are to end, but the far side was: who takes that for a cancellation of ours ends an answer as if it were wanted so.
        raise StreamInterrupted("a part of headrace was ended within a call") from error
    except BackPressureError as error:
        raise Overloaded("too many requests are waiting", retry_after_s=1) from error
    except RayTaskError as error:
        if isinstance(error.cause, HeadraceError):
            raise error.cause from None
        raise
    except (RayError, RayServeException) as error:
        raise Overloaded("a part of headrace is restarting", code="stage_unavailable", retry_after_s=2) from error
