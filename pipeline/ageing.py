"""How fast the content of a vector store ages, as its metadata says."""

import logging
import time

from sqlalchemy.exc import SQLAlchemyError

from deployments.core.recent import Recent
from deployments.core.store import Store
from deployments.core.types import Principal

_logger = logging.getLogger("headrace.flow")

FRESH_S = 10.0
"""How long a store's half-life is remembered: one reading of SQL less in almost every turn."""


class HalfLives:
    """The half-lives that vector stores state."""

    def __init__(self) -> None:
        self._known = Recent[tuple[str, str], float](FRESH_S, time.monotonic)

    async def of(self, store: Store, principal: Principal, store_id: str) -> float | None:
        """The half-life of a store in seconds; None where it states none, or SQL can not say now."""
        key = (principal.tenant, store_id)
        known = self._known.get(key)
        if known is None:
            try:
                known = self._known.put(key, await store.of(principal).corpus.half_life_s(store_id) or 0.0)
            except (SQLAlchemyError, OSError) as error:
                _logger.warning("store %s is searched without regard to age: %s", store_id, error)
        return known or None
