"""Puts calls of tools on record: which tool, a digest of its arguments, what was decided, how it ended; no content."""

from collections.abc import Sequence

from deployments.core.store import Store
from deployments.core.telemetry import TOOL_CALLS
from deployments.core.types import Turn
from pipeline.tools.policy import Ask, Deny, Run
from pipeline.tools.runner import Result


class Record:
    """What is told of the calls of one answer; each lot is one transaction, written before the calls are made, and again behind them."""

    def __init__(self, store: Store, turn: Turn):
        self._store, self._turn = store, turn

    async def decided(self, calls: Sequence[tuple[str, Run | Ask | Deny]], approval_id: str = "") -> None:
        """What was decided of some calls, by the names the model used; digests are keyed, so they tell nothing but equality."""
        lock = await self._store.of(self._turn.principal).lock()
        async with self._store.write() as session:
            for name, verdict in calls:
                arguments = "" if isinstance(verdict, Deny) else lock.mark(b"arguments" + verdict.arguments)[:32]
                decision = verdict.why if isinstance(verdict, Deny) else "run" if isinstance(verdict, Run) else "ask"
                TOOL_CALLS.add(decision)
                detail = {"response": self._turn.id, "arguments": arguments, "decision": decision, "approval": approval_id}
                await self._store.audit.append(
                    session, self._turn.principal.key_id, "tool.called", self._turn.principal.tenant, name, **detail
                )

    async def ended(self, calls: Sequence[tuple[str, Result]]) -> None:
        """How calls ended that were made."""
        if not calls:
            return
        async with self._store.write() as session:
            for name, result in calls:
                detail = {"response": self._turn.id, "well": result.error is None}
                await self._store.audit.append(
                    session, self._turn.principal.key_id, "tool.ended", self._turn.principal.tenant, name, **detail
                )
