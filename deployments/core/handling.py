"""How a turn is handled beside what it says: by the model it names, the tenant that asks, and what the request wants."""

from typing import Literal

import msgspec

Service = Literal["default", "flex", "priority"]
"""What is dearer to the caller: nothing, the cost (`flex`), or the quality (`priority`)."""


class Handling(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a turn is handled.

    `retrieves` says whether its model answers from passages, `tiered` whether backends of its own have tiers, `recipe` names the
    definition of the model. `threshold` is the tenant's own complexity from which on a question goes to the large tier. The rates are
    the model's own limits for one tenant. With `shows_route` the caller is told where the turn went, and why; with
    `shows_timing` where its time went.
    """

    retrieves: bool = True
    tiered: bool = False
    recipe: str = ""
    threshold: float | None = None
    service: Service = "default"
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    shows_route: bool = False
    shows_timing: bool = False


def service_of(asked: str | None) -> Service:
    """The service that is given for the one asked for."""
    return "flex" if asked == "flex" else "priority" if asked == "priority" else "default"
