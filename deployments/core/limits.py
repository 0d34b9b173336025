"""What a tenant or a key may use: limits, and the share it has when there is not enough for all."""

import msgspec

from deployments.core.types import Caching


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Bounds of use; None is no bound. Tokens are those read and written. Days and months are those of UTC."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    requests_per_day: int | None = None
    tokens_per_day: int | None = None
    tokens_per_month: int | None = None
    concurrent: int | None = None
    """Answers written or waited for at once."""
    concurrent_per_session: int | None = None
    """The same within one conversation."""


class Policy(msgspec.Struct, frozen=True):
    """What admission goes by for one principal: the limits of its tenant and of its key, and the tenant's share."""

    tenant: Limits = Limits()
    key: Limits = Limits()
    weight: float = 1.0
    """A tenant of weight 2 gets twice as many tokens as one of weight 1 while both wait."""
    cache: Caching = "off"
    """What requests of the tenant that say nothing ask of the completion cache."""
    threshold: float | None = None
    """The tenant's own complexity from which on its questions go to the large tier."""
