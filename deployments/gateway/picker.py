"""Who is given what: the choices of each turn, from what SQL said a second ago at most."""

import asyncio
import hmac
import logging
from collections.abc import Callable, Sequence

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from deployments.core.canaries import Canary, in_force
from deployments.core.choices import Choice
from deployments.core.prompts import BUILT_IN
from deployments.core.store import Store
from deployments.core.tables import PromptRow
from deployments.core.types import Turn

EVERY_S = 1.0
"""Pause between two looks at SQL: a change is in force everywhere within that and the time of a query."""
MOST_CURRENT = 20_000
"""Current versions of built-in prompts that are read, of all tenants; those beyond are not in force, which the log says."""

_logger = logging.getLogger("headrace.canary")


class Picker:
    """Picks for turns. Where no canary is in force and no tenant has prompts of its own, that is the look into two empty containers."""

    def __init__(self, most: int = MOST_CURRENT) -> None:
        self._most = most
        self._canaries: Sequence[Canary] = ()
        self._current: dict[str, tuple[Choice, ...]] = {}
        self._key = b""

    async def run(self, store: Store) -> None:
        """Look every second, until cancelled; while SQL is away what it said last is in force."""
        while True:
            try:
                await self.refresh(store)
            except (SQLAlchemyError, OSError) as error:
                _logger.warning("canaries can not be read: %s", type(error).__name__)
            await asyncio.sleep(EVERY_S)

    async def refresh(self, store: Store) -> None:
        """Look now."""
        self._key = self._key or store.vault.derived("canary sides")
        mine = select(PromptRow.tenant_id, PromptRow.id, PromptRow.version).where(PromptRow.current, PromptRow.id.in_(BUILT_IN))
        mine = mine.order_by(PromptRow.tenant_id, PromptRow.id).limit(self._most + 1)
        current: dict[str, tuple[Choice, ...]] = {}
        async with store.session() as session:
            self._canaries = await in_force(session)
            rows = (await session.execute(mine)).all()
            if len(rows) > self._most:
                _logger.error(
                    "more than %s versions of built-in prompts are current: those of the last tenants are not in force", self._most
                )
            for tenant, prompt, version in rows[: self._most]:
                current[tenant] = (*current.get(tenant, ()), Choice("prompt", prompt, str(version)))
        self._current = current

    def pick(self, turn: Turn, user: str | None = None, meets: Callable[[Canary], bool] = lambda _: True) -> tuple[Choice, ...]:
        """The choices of a turn: its tenant's versions of built-in prompts, then its side of each canary; a tenant's own goes before all's.

        Sides are sticky: all turns of a conversation, else of a user, else the turn alone, by a keyed hash. A larger weight takes
        sessions from the control, and none from the variant. Of a canary whose variant the turn would never meet it is on neither side.
        """
        choices = self._current.get(turn.principal.tenant, ())
        if self._canaries:
            mine = sorted((one for one in self._canaries if one.tenant in (None, turn.principal.tenant)), key=lambda one: one.tenant or "")
            apart = {(one.kind, one.subject): one for one in mine}  # of two that vary the same, the tenant's
            choices += tuple(self._choice(one, turn, user) for one in apart.values() if meets(one))
        return choices

    def _choice(self, canary: Canary, turn: Turn, user: str | None) -> Choice:
        if canary.status == "promoted":
            return Choice(canary.kind, canary.subject, canary.value)
        session = self._session(canary.id, turn, user)
        picked = int.from_bytes(session) / 2**64 < canary.weight
        value, arm = (canary.value, "variant") if picked else ("", "control")
        return Choice(canary.kind, canary.subject, value, canary.id, arm, canary.weight, session.hex())

    def _session(self, canary_id: str, turn: Turn, user: str | None) -> bytes:
        """A keyed digest of whose turn it is, anew for each canary: 64 bits that tell its side."""
        caller = turn.principal
        session = turn.conversation_id or caller.user or user
        whose = f"{caller.tenant}\0{session}" if session else f"{caller.key_id}\0{turn.id}"
        return hmac.digest(self._key, f"{canary_id}\0{whose}".encode(), "sha256")[:8]
