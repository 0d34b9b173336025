"""One turn, top to bottom."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from deployments.core.config import Settings
from deployments.core.errors import DeadlineExceeded, HeadraceError, StreamInterrupted
from deployments.core.log import Writer
from deployments.core.ports import Embeds, Generates, Retrieves, Routes
from deployments.core.types import Generation, LogRef, Passage, Query, Route, Turn, Vector
from pipeline.excerpts import compress, excerpts
from pipeline.prompts.compose import compose

_logger = logging.getLogger("headrace.flow")


UNGROUNDED = Route(
    "default", retrieve=False, context_tokens=0, reason="there is nothing to search, or the caller asked for the model alone"
)
"""The route of a turn that the router is not asked about."""


@dataclass(frozen=True)
class Flow:
    """What happens to a turn; implements the gateway's `Answers`."""

    settings: Settings
    embeds: Embeds
    retrieves: Retrieves
    routes: Routes
    generates: Generates

    async def answer(self, turn: Turn, writer: Writer, followed: Callable[[], int]) -> None:
        """Write the whole response of a turn to its log, however it ends; raises nothing but CancelledError."""
        try:
            async with asyncio.timeout(turn.deadline_s):
                writer.open()
                route, passages = await self._ground(turn)
                outcome = await self.generates.generate(self._generation(turn, writer, route, passages))
                writer.finish(outcome)
        except asyncio.CancelledError:
            _break(writer, followed, StreamInterrupted("the client has gone", code="client_disconnected"))
            raise
        except HeadraceError as error:
            _break(writer, followed, error)
        except TimeoutError:
            _break(writer, followed, DeadlineExceeded("the answer took longer than it may"))
        except Exception:
            _logger.exception("turn %s failed", turn.id)
            _break(writer, followed, HeadraceError("headrace failed to answer; the log has the reason"))

    async def _ground(self, turn: Turn) -> tuple[Route, tuple[Passage, ...]]:
        """The route and the passages: embed once, then route and search side by side.

        Where there is nothing to search there is nothing to decide either, which saves a tenth of the CPU of a direct answer.
        """
        if not turn.store_id or not turn.question.strip():
            return UNGROUNDED, ()
        vector = (await self.embeds.embed([turn.question]))[0]
        search = asyncio.create_task(self.retrieves.search(self._query(turn, turn.store_id, vector)))
        try:
            route = await self.routes.route(turn, vector)
            return route, await search if route.retrieve else ()
        finally:
            search.cancel()

    def _query(self, turn: Turn, store_id: str, vector: Vector) -> Query:
        limit, budget = self.settings.retriever.limit, self.settings.generator.context_tokens
        return Query(turn.principal, store_id, turn.question, vector, limit, budget)

    def _generation(self, turn: Turn, writer: Writer, route: Route, passages: tuple[Passage, ...]) -> Generation:
        ref = writer.ref
        chosen = excerpts(turn.question, passages) if self.settings.generator.quoting else ()
        sources = compress(passages, chosen) if chosen else passages
        return Generation(
            log=LogRef(ref.response_id, ref.tenant, ref.channels, ref.record, writer.epoch, writer.next_seq),
            backend=route.backend,
            messages=compose(turn.messages, sources, searched=route.retrieve),
            sampling=turn.sampling,
            passages=passages,
            citation_urls=tuple(f"{self.settings.base_url}/files/{p.file_id}#chunk={p.chunk.number}" for p in passages),
            deadline_s=turn.deadline_s,
            quotes=tuple(excerpt.text for excerpt in chosen),
        )


def _break(writer: Writer, followed: Callable[[], int], error: HeadraceError) -> None:
    """End a response that broke off, from wherever its generator got to."""
    if writer.broken:
        return
    writer.fence(max(writer.next_seq, followed()))
    writer.fail(error)
