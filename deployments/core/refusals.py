"""Refused callers on the audit record, however many they are: one entry for each of them, kind and minute, with a count."""

import asyncio
import logging
from collections import Counter

from sqlalchemy.exc import SQLAlchemyError

from deployments.core.store import Store

_EVERY_S = 60
_MAX_SUBJECTS = 500
"""Callers that are told apart within a minute; the others are counted together."""

_OTHERS = "others"
_logger = logging.getLogger("headrace.identity")


class Refusals:
    """Counts in memory and writes once a minute; what a process counted in its last minute is lost when it is killed."""

    def __init__(self, store: Store):
        self._store = store
        self._counts = Counter[tuple[str, str | None, str]]()

    def note(self, act: str, subject: str, tenant: str | None = None) -> None:
        """Count a refusal of a key (its id) or an address."""
        key = (act, tenant, subject)
        if key not in self._counts and len(self._counts) >= _MAX_SUBJECTS:
            key = (act, None, _OTHERS)
        self._counts[key] += 1

    async def flush(self) -> None:
        """Write what was counted."""
        counts, self._counts = self._counts, Counter[tuple[str, str | None, str]]()
        if not counts:
            return
        try:
            async with self._store.write() as session:
                for (act, tenant, subject), count in counts.items():
                    await self._store.audit.append(session, "gateway", act, tenant, subject, count=count)
        except (SQLAlchemyError, OSError) as error:
            _logger.warning("refused callers can not be recorded now: %s", type(error).__name__)
            self._counts.update(counts)

    async def run(self) -> None:
        """Write once a minute, until cancelled; writes once more then."""
        try:
            while True:
                await asyncio.sleep(_EVERY_S)
                await self.flush()
        finally:
            await self.flush()
