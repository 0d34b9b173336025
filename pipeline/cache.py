"""The completion cache: an answer that was given before is given again, where tenant or request ask for it.

Everything an answer depends on is part of the name it is kept under: the tenant, the user and what the caller may do; the model, how it
is sampled, prompts and settings; every message and tool; the vector store and the version of its content. What changes gets another
name, so nothing has to be found and deleted. A question that only means the same finds an answer of its own partition: all of that is
equal, and so are the numbers in both questions. Only answers that are complete and call no function are kept; those within a
conversation, and those with tools of headrace's, never: the one moves on with every turn, and the others do something.
"""

import hashlib
import logging
import re
from collections.abc import Sequence
from dataclasses import replace

import msgspec
from sqlalchemy.exc import SQLAlchemyError

from deployments.core.config import Settings
from deployments.core.errors import HeadraceError
from deployments.core.log import Writer
from deployments.core.ports import Embeds
from deployments.core.run import Answers, Run
from deployments.core.telemetry import CACHE_LOOKUPS
from deployments.core.types import Called, Cited, Delta, Finished, Message, Opened, Outcome, Searched, Searching, Text, Turn, Vector
from deployments.core.vault import Lock
from pipeline.flow import end
from pipeline.prompts.seeds import SEEDS
from pipeline.shelf import Kept, Place, Shelf

_logger = logging.getLogger("headrace.cache")

_encode = msgspec.msgpack.Encoder(order="deterministic").encode


class Cached:
    """A flow with a cache before it; implements the gateway's `Answers`."""

    def __init__(self, settings: Settings, flow: Answers, embeds: Embeds):
        self._flow = flow
        self._embeds = embeds
        self._shelf = Shelf(settings)
        self._revision = revision(settings)

    async def answer(self, turn: Turn, run: Run) -> None:
        """Write the whole response of a turn to its log: the one that is kept, or that of the flow, which is kept then."""
        place = await self._place(turn, run)
        if place is None:
            await self._flow.answer(turn, run)
            return
        with run.timings.of("cache"):
            known, vector = await self._known(turn, place)
        if known:
            await _replay(turn, run, known)
            return

        async def keep(log: Sequence[Delta]) -> None:
            await run.keep(log)
            if answer := _keepable(log):
                await self._shelf.put(place, answer, vector)

        await self._flow.answer(turn, replace(run, keep=keep, vector=vector))

    async def close(self) -> None:
        """Close the connection."""
        await self._shelf.close()

    async def _place(self, turn: Turn, run: Run) -> Place | None:
        """Where the answer is kept; None where nobody asked for that, or it can't be.

        The version of the store is read before anything is looked for in it: what changes meanwhile makes the answer unreachable.
        """
        if turn.reuse is None or turn.conversation_id or not turn.question.strip():
            return None
        if turn.toolbox.allowed or turn.approvals:
            return None  # what tools do is done each time
        if any(not isinstance(delta, Opened) for delta in run.writer.written):
            return None  # it was begun before, by a worker that died
        mine = run.store.of(turn.principal)
        try:
            return place(turn, await mine.lock(), await mine.corpus.version(turn.store_id) if turn.store_id else 0, self._revision)
        except (SQLAlchemyError, HeadraceError):
            _logger.exception("the cache is passed over")
            return None

    async def _known(self, turn: Turn, place: Place) -> tuple[Kept | None, Vector | None]:
        """The answer that is kept, and the embedding of the question where close ones count: the flow goes on with it."""
        known = await self._shelf.get(place)
        _count("exact", known)
        if known or turn.reuse is None or turn.reuse.threshold is None:
            return known, None
        try:
            vector = (await self._embeds.embed([turn.question], turn.principal))[0]
        except HeadraceError:
            return None, None  # whoever needs it will say so
        close = await self._shelf.closest(place, vector, turn.reuse.threshold)
        _count("semantic", close)
        return close, vector


def place(turn: Turn, lock: Lock, corpus: int, revision: bytes) -> Place:
    """Where the answer to a turn is kept, given the version of its store and of what answers."""
    caller = turn.principal
    who = (caller.tenant, caller.user, sorted(caller.scopes), None if caller.models is None else sorted(caller.models))
    asked = max(place for place, message in enumerate(turn.messages) if message.role == "user")
    around = (*turn.messages[:asked], Message("user", "", images=turn.messages[asked].images), *turn.messages[asked + 1 :])
    handled = (turn.handling.recipe, turn.handling.threshold, turn.handling.service)
    choices = [(one.kind, one.subject, one.value) for one in turn.choices if one.value]
    what = (turn.model, handled, turn.sampling, around, asked, turn.toolbox, turn.search, turn.store_id, choices, corpus, revision)
    partition = _encode((who, what))
    numbers = re.findall(r"\d+", turn.question)
    return Place(caller.tenant, lock, lock.mark(_encode((partition, numbers))), lock.mark(_encode((partition, turn.question, "exact"))))


def revision(settings: Settings) -> bytes:
    """A digest of what answers: prompts, models, and how passages are found and linked."""
    parts = (settings.generator, settings.retriever, settings.embedder)
    return hashlib.sha256(_encode((dict(SEEDS), settings.base_url, *(part.model_dump_json() for part in parts)))).digest()


def _count(cache: str, known: Kept | None) -> None:
    CACHE_LOOKUPS.add(cache, "hit" if known else "miss")


def _keepable(log: Sequence[Delta]) -> Kept | None:
    """The answer of a log, where it is complete and calls no function."""
    *deltas, last = log
    if not isinstance(last, Finished) or last.reason != "stop" or any(isinstance(delta, Called) for delta in deltas):
        return None
    return Kept(tuple(deltas), last.usage)


async def _replay(turn: Turn, run: Run, known: Kept) -> None:
    """Write an answer that is kept as if it were written now."""
    writer = run.writer
    if not writer.written:
        writer.open()
    for delta in known.deltas:
        _repeat(delta, turn.question, writer)
    used = msgspec.structs.replace(known.usage, replayed=True)
    await end(run, writer.finished(Outcome(writer.next_seq, "stop", used)))


def _repeat(delta: Delta, question: str, writer: Writer) -> None:
    match delta:
        case Text(text=text, logprobs=logprobs):
            writer.text(text, logprobs)
        case Cited(citation=citation):
            writer.cite(citation)
        case Searching():
            writer.searching([question])
        case Searched(hits=hits):
            writer.searched(hits)
        case _:
            pass
