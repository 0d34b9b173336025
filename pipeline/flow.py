"""One turn, top to bottom."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import cached_property

import msgspec
from sqlalchemy.exc import SQLAlchemyError

from deployments.core.account import Account
from deployments.core.catalogue import Catalogue
from deployments.core.choices import arms, chosen
from deployments.core.config import Settings
from deployments.core.errors import (
    BackendFailed,
    ContextTooLong,
    DeadlineExceeded,
    HeadraceError,
    InvalidOutput,
    Overloaded,
    StreamInterrupted,
)
from deployments.core.log import Writer, fenced
from deployments.core.models import BUILT_IN, Model
from deployments.core.ports import Embeds, Generates, Retrieves, Routes
from deployments.core.prompts import SEED, named
from deployments.core.run import Run, forget
from deployments.core.sql import away
from deployments.core.telemetry import BEST_SCORE, NO_ANSWER, RETRIEVED, RETRIEVED_NONE
from deployments.core.tool_settings import Tools
from deployments.core.types import (
    Called,
    Delta,
    Generation,
    Hit,
    Last,
    LogRef,
    Message,
    Outcome,
    Passage,
    Query,
    Route,
    Searched,
    Searching,
    Text,
    Turn,
    Usage,
    Vector,
)
from pipeline.ageing import HalfLives
from pipeline.answerable import LEAST, UNANSWERED, answerable
from pipeline.excerpts import compress, excerpts
from pipeline.followup import Asked, asked, stands
from pipeline.prompts.fit import Dropped, prompt
from pipeline.prompts.seeds import SEEDS
from pipeline.session import Recall, recalled, spoken
from pipeline.tools.loop import Loop

_logger = logging.getLogger("headrace.flow")


_RESUMES = 6
"""Model calls that one answer may take, where the generator dies under it; a replica is back within seconds."""

_RESUME_S = 0.25
"""The first pause before another call; each next one is twice as long."""

_LATE_S = 0.05
"""How long the last words of a generator that broke off may take to arrive."""

_ABRIDGED = 2
"""Passages are found up to this many times the tokens that the prompt has for them: half of them holds 97 % of what answers."""
_BEFORE_ITEMS = 8
"""Newest items of a conversation among which the turn before is found."""

UNGROUNDED = Route(retrieve=False, context_tokens=0, reason="there is nothing to search, or the caller asked for the model alone")
"""The route of a turn that the router is not asked about."""


@dataclass(frozen=True)
class Flow:
    """What happens to a turn; implements the gateway's `Answers`."""

    settings: Settings
    embeds: Embeds
    retrieves: Retrieves
    routes: Routes
    generates: Generates
    half_lives: HalfLives = field(default_factory=HalfLives)
    loop: Loop = field(default_factory=lambda: Loop(Tools()))

    @cached_property
    def catalogue(self) -> Catalogue:
        """The models, as this process last read them."""
        return Catalogue(self.settings)

    async def answer(self, turn: Turn, run: Run) -> None:
        """Write the whole response of a turn to its log, however it ends; raises CancelledError, and what fenced the log off.

        A log that was begun before is gone on with. Cancelled, a shared log is left as it is, for whoever goes on with it.
        """
        writer = run.writer
        try:
            last = await self._run(turn, run)
        except asyncio.CancelledError:
            if not writer.ref.shared and not writer.broken:
                writer.fence(run.tape.deltas)
                await end(run, writer.cancelled())
            raise
        except HeadraceError as error:
            last = await _break(run, error)
        except TimeoutError:
            last = await _break(run, DeadlineExceeded("the answer took longer than it may"))
        except Exception as error:
            _logger.exception("turn %s failed", turn.id)
            last = await _break(run, away(error) or HeadraceError("headrace failed to answer; the log has the reason"))
        await end(run, last)

    async def _run(self, turn: Turn, run: Run) -> Last:
        writer = run.writer
        async with asyncio.timeout(turn.deadline_s):
            if not writer.written:
                writer.open()
            question = await self._asked(turn, run)
            vector = await self._embed(turn, run, question)
            strange = False
            if turn.conversation_id:
                found, (messages, notes) = await asyncio.gather(self._ground(turn, run, question, vector), self._recall(turn, run, vector))
                strange = bool(notes) or messages != turn.messages
                turn = msgspec.structs.replace(turn, messages=messages)
            else:
                notes = ()
                found = await self._ground(turn, run, question, vector)
            if self._unanswerable(turn, *found) and _said(writer) in ("", UNANSWERED):
                NO_ANSWER.add()
                return writer.finished(_unanswered(writer))
            if found[0].tier:
                _logger.info("turn %s goes to the %s tier: %s", turn.id, found[0].tier, found[0].reason)
            run.timings.route = found[0]
            if turn.handling.shows_route:
                run.slot.routed(found[0])
            model = None if turn.model in BUILT_IN else await self.catalogue.get(run.store, turn.model)
            with run.timings.of("compose"):
                generation = await self._generation(turn, run, notes, *found, model)
            if turn.toolbox.allowed or turn.approvals:
                outcome = await self.loop.answer(turn, run, generation, lambda asked: self._speak(asked, run), strange=strange)
            else:
                outcome = await self._speak(generation, run)
            if run.keep is not forget:
                await run.tape.until(outcome.next_seq, self.settings.log.stall_s)
            writer.adopt(run.tape.deltas, outcome.next_seq)
            return writer.finished(outcome)

    async def _speak(self, generation: Generation, run: Run) -> Outcome:
        """One call of the model, which goes on behind what the log holds, when its turn has come; what it used counts."""
        generation = msgspec.structs.replace(generation, log=_log(run.writer))
        run.slot.reads(generation.messages)
        run.timings.read = generation.messages
        async with AsyncExitStack() as held:
            with run.timings.of("queue"):
                await held.enter_async_context(run.slot)
            try:
                with run.timings.of("generate"):
                    outcome = await (self._persist(generation, run) if run.writer.ref.shared else self.generates.generate(generation))
            except InvalidOutput as error:
                run.slot.spent(Usage(error.read, error.written))
                raise
            run.slot.spent(outcome.usage)
        return outcome

    async def _persist(self, generation: Generation, run: Run) -> Outcome:
        """Run a model call whose answer outlives its connection: where its generator dies, another goes on behind what is recorded."""
        pause_s = _RESUME_S
        for left in reversed(range(_RESUMES)):
            try:
                return await self.generates.generate(generation)
            except (Overloaded, BackendFailed, StreamInterrupted) as error:
                if not left or error.wire_code == fenced().wire_code or not _resumable(generation, run.tape.deltas[generation.since :]):
                    raise
                _logger.warning("response %s is gone on with: %s", run.writer.ref.response_id, error)
            await asyncio.sleep(pause_s)
            pause_s *= 2
            await run.writer.seize(run.tape.deltas)
            generation = msgspec.structs.replace(generation, log=_log(run.writer))
        raise AssertionError("unreachable")

    async def _asked(self, turn: Turn, run: Run) -> Asked:
        """The question as it is searched for: with what was said before it, where it can not be understood alone."""
        if stands(turn.question):
            return Asked(turn.question, turn.question)
        last = max((place for place, message in enumerate(turn.messages) if message.role == "user"), default=0)
        before = turn.messages[:last]
        if turn.conversation_id:
            tail = await run.store.of(turn.principal).conversations.tail(turn.conversation_id, _BEFORE_ITEMS)
            before = (*(one.message for one in spoken(tail)), *before)
        return asked(turn.question, before)

    async def _embed(self, turn: Turn, run: Run, question: Asked) -> Vector | None:
        """The embedding of the question, once for all who use it; None where nobody does."""
        if not (turn.store_id or turn.conversation_id or self._tiered(turn)) or not turn.question.strip():
            return None
        if run.vector is not None and question.meaning == turn.question:
            return run.vector
        try:
            with run.timings.of("embed"):
                return (await self.embeds.embed([question.meaning], turn.principal))[0]
        except HeadraceError as error:
            if turn.store_id or turn.conversation_id:
                raise
            _logger.warning("turn %s goes to any tier: %s", turn.id, error)
            return None

    def _tiered(self, turn: Turn) -> bool:
        """Whether it matters how complex the question is."""
        return self.settings.generator.tiered or turn.handling.tiered

    async def _recall(self, turn: Turn, run: Run, vector: Vector | None) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
        """The messages of the turn behind the last of its conversation, and notes on what was said before these."""
        conversation = run.store.of(turn.principal).conversations
        with run.timings.of("recall"):
            earlier = await Recall(self.settings.session).messages(conversation, turn.conversation_id or "", vector)
        notes = tuple(message for message in earlier if message.role == "system")
        return recalled(turn.messages, earlier[len(notes) :]), notes

    async def _ground(self, turn: Turn, run: Run, question: Asked, vector: Vector | None) -> tuple[Route, tuple[Passage, ...]]:
        """The route and the passages: route and search side by side.

        Where there is nothing to search and there are no tiers, there is nothing to decide either, which saves a tenth of the CPU of a
        direct answer.
        """
        writer = run.writer
        if vector is None or not (turn.store_id or self._tiered(turn)):
            return UNGROUNDED, ()
        if not turn.store_id:
            return await self._tier(turn, run, vector), ()
        if turn.search and not any(isinstance(delta, Searching) for delta in writer.written):
            writer.searching([turn.question])
        search = asyncio.create_task(self._search(turn, run, Query(turn.principal, turn.store_id, question.text, vector)))
        try:
            with run.timings.of("route"):
                route = _varied(await self.routes.route(turn, vector), turn)
            passages = await search if route.retrieve or turn.search else ()
            if turn.search:
                passages = tuple(passage for passage in passages if passage.score >= turn.search.min_score)
        finally:
            search.cancel()
        if turn.search and not any(isinstance(delta, Searched) for delta in writer.written):
            writer.searched([Hit(p.file_id, p.filename, p.score, p.chunk.text, p.attributes) for p in passages])
        return route, passages

    async def _tier(self, turn: Turn, run: Run, vector: Vector) -> Route:
        """The route of a turn with nothing to search; without the router it has no tier, but it is answered."""
        try:
            with run.timings.of("route"):
                return await self.routes.route(turn, vector)
        except HeadraceError as error:
            _logger.warning("turn %s goes to any tier: %s", turn.id, error)
            return UNGROUNDED

    async def _search(self, turn: Turn, run: Run, query: Query) -> tuple[Passage, ...]:
        """The passages of a query, as many as the turn has use for, by how fast its store ages."""
        limit = int(chosen(turn.choices, "retrieval", "limit") or self.settings.retriever.limit)
        budget = _ABRIDGED * int(chosen(turn.choices, "retrieval", "context_tokens") or self.settings.generator.context_tokens)
        if turn.search:
            limit = turn.search.limit
        half_life_s = await self.half_lives.of(run.store, turn.principal, query.store_id)
        filters = turn.search.filters if turn.search else None
        wanted = msgspec.structs.replace(query, limit=limit, budget_tokens=budget, filters=filters, half_life_s=half_life_s)
        with run.timings.of("search"):
            found = await self.retrieves.search(wanted)
        _count(found)
        return found

    def _unanswerable(self, turn: Turn, route: Route, passages: Sequence[Passage]) -> bool:
        """Whether the answer is that there is none; a model that may call functions or owes JSON is always asked."""
        if self.settings.generator.unanswerable == "answer" or not route.retrieve:
            return False
        if turn.toolbox.some or turn.sampling.owes_json:
            return False
        return answerable(turn.question, passages) < LEAST

    async def _generation(
        self, turn: Turn, run: Run, notes: tuple[Message, ...], route: Route, passages: tuple[Passage, ...], model: Model | None
    ) -> Generation:
        held = self.settings.generator.quoting and not (model and model.own)
        quoting = held and not turn.toolbox.some and not turn.sampling.owes_json
        quotes = excerpts(turn.question, passages) if quoting else ()
        instruction, prompts = await self._instruction(turn, run, route, bool(passages))
        sources = compress(passages, quotes) if quotes else passages
        longest = self.settings.generator.longest_prompt(turn.sampling.max_tokens, model)
        fitted = prompt(turn, instruction, notes, sources, route.context_tokens, longest)
        if passages and not fitted.passages:
            if longest is not None and prompt(turn, instruction, notes, sources, route.context_tokens, None).passages:
                raise ContextTooLong("the messages and the answer leave no room for what was found", param="messages")
            instruction, prompts = await self._instruction(turn, run, route, False)
            made = prompt(turn, instruction, notes, (), route.context_tokens, longest)
            fitted = msgspec.structs.replace(made, dropped=fitted.dropped)
        shown = "\n".join(one.chunk.text for one in fitted.passages)
        _tell(turn, prompts, fitted.dropped)
        return Generation(
            log=_log(run.writer),
            messages=fitted.messages,
            sampling=turn.sampling,
            passages=passages,
            citation_urls=tuple(f"{self.settings.base_url}/files/{p.file_id}#chunk={p.chunk.number}" for p in passages),
            deadline_s=turn.deadline_s,
            quotes=tuple(excerpt.text for excerpt in quotes if excerpt.text in shown),
            toolbox=turn.toolbox,
            tier=route.tier,
            prefers=chosen(turn.choices, "model", ""),
            session=turn.conversation_id or next(iter(turn.earlier), turn.question),
            model=model,
            account=_account(turn, route, prompts),
            hedged=run.awaited and turn.handling.service != "flex",
        )

    async def _instruction(self, turn: Turn, run: Run, route: Route, grounded: bool) -> tuple[str, tuple[str, ...]]:
        """What the model is told to be, "" where it is asked without passages, and the versions of the prompts that are part of it."""
        own = (turn.prompt,) if turn.prompt else ()
        if not route.retrieve:
            return "", own
        name = "grounded" if grounded else "nothing_found"
        version = chosen(turn.choices, "prompt", name) or str(SEED)
        if version == str(SEED):
            return SEEDS[name], (named(name, version), *own)
        return (await run.store.of(turn.principal).prompts.get(name, version)).template, (named(name, version), *own)


def _varied(route: Route, turn: Turn) -> Route:
    """The route with what a canary varies of it."""
    tokens = chosen(turn.choices, "retrieval", "context_tokens")
    return msgspec.structs.replace(route, context_tokens=int(tokens)) if tokens and route.retrieve else route


def _tell(turn: Turn, prompts: Sequence[str], dropped: Dropped) -> None:
    """Log what a turn is answered with, where that is not the usual: names and numbers, nothing of what it says."""
    if turn.prompt or turn.choices or dropped != Dropped():
        left_out = msgspec.to_builtins(dropped)
        _logger.info("turn %s: prompts %s, canaries %s, left out %s", turn.id, list(prompts), arms(turn.choices), left_out)


def _account(turn: Turn, route: Route, prompts: Sequence[str]) -> Account:
    """To whose account the model calls of a turn go."""
    taken = "grounded" if route.retrieve else "direct"
    tier = f"/{route.tier}" if route.tier else ""
    return Account(turn.principal.key_id, turn.principal.user or "", turn.model, taken + tier, " ".join(prompts))


def _count(found: Sequence[Passage]) -> None:
    """Count what a search gave."""
    RETRIEVED.see(len(found))
    if found:
        BEST_SCORE.see(max(passage.score for passage in found))
    else:
        RETRIEVED_NONE.add()


def _said(writer: Writer) -> str:
    """The text that the log holds."""
    return "".join(delta.text for delta in writer.written if isinstance(delta, Text))


def _unanswered(writer: Writer) -> Outcome:
    """Say that there is no answer, where that is not said yet."""
    if not _said(writer):
        writer.text(UNANSWERED)
    return Outcome(writer.next_seq, "stop", Usage())


def _resumable(generation: Generation, log: Sequence[Delta]) -> bool:
    """Whether another generator may go on behind a log: not within a call or a piece of JSON."""
    return not any(isinstance(delta, Called) or (generation.sampling.owes_json and isinstance(delta, Text)) for delta in log)


def _log(writer: Writer) -> LogRef:
    """The log as a generator takes it over."""
    return msgspec.structs.replace(writer.ref, epoch=writer.epoch, written=writer.written)


async def _break(run: Run, error: HeadraceError) -> Last:
    """The end of a response that broke off, from wherever its generator got to; raises what fenced its log off."""
    if broken := run.writer.broken or (error if error.wire_code == fenced().wire_code else None):
        raise broken
    await asyncio.sleep(_LATE_S)  # what the generator wrote last may still be on its way
    run.writer.fence(run.tape.deltas)
    return run.writer.failed(error)


async def end(run: Run, last: Last) -> None:
    """Keep the response, then tell its readers that it has ended: what they have seen is not lost any more."""
    try:
        await run.keep((*run.writer.written, last))
    except (SQLAlchemyError, OSError):
        _logger.exception("response %s can not be kept", run.writer.ref.response_id)
        last = run.writer.failed(HeadraceError("headrace could not keep the answer"))
    run.writer.end(last)
