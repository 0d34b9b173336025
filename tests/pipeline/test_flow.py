"""One turn through the flow, with fakes for the stages and a real log."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis
from sqlalchemy.exc import OperationalError

from deployments.core.catalogue import handling
from deployments.core.config import Generator, Log, Settings
from deployments.core.errors import BackendFailed, HeadraceError, Overloaded, StreamInterrupted
from deployments.core.filters import Compare
from deployments.core.follow import Hub
from deployments.core.ids import new_id
from deployments.core.log import read, seize
from deployments.core.models import Model
from deployments.core.outbox import Outbox
from deployments.core.responses import Item
from deployments.core.run import Keep, Run, forget
from deployments.core.sections import Upstream
from deployments.core.store import Store
from deployments.core.tools import Tool, Toolbox
from deployments.core.types import (
    Cancelled,
    Chunk,
    Cited,
    Delta,
    Failed,
    Finished,
    Generation,
    LogRef,
    Message,
    Opened,
    Outcome,
    Passage,
    Principal,
    Query,
    Route,
    Sampling,
    Search,
    Searched,
    Searching,
    Source,
    Text,
    Tier,
    Turn,
    Usage,
    Vector,
    Vectors,
)
from deployments.core.vault import Vault
from pipeline.answerable import UNANSWERED
from pipeline.flow import Flow
from tests.fakes import Counting, FakeEmbeds, FakeRetrieves, FakeRoutes, database, tenant

OURS = Principal("ours", "key", frozenset())
NO_STORE = Store("sqlite+aiosqlite://", Vault(bytes(32)))


@dataclass
class Generates:
    """Writes some words to the log, and may break after them."""

    outbox: Outbox
    words: list[str] = field(default_factory=lambda: ["so ", "it ", "is"])
    error: Exception | None = None
    pause_s: float = 0.0
    calls: list[Generation] = field(default_factory=list)
    cancelled: int = 0

    async def generate(self, generation: Generation) -> Outcome:
        self.calls.append(generation)
        with self.outbox.writer(generation.log) as writer:
            try:
                for word in self.words:
                    writer.text(word)
                    await asyncio.sleep(self.pause_s)
                await writer.drain()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
            if self.error:
                raise self.error
            return Outcome(writer.next_seq, "stop", Usage(5, 3))


@dataclass
class Stand:
    """A flow with its fakes, and the way to run a turn through it."""

    flow: Flow
    generates: Generates
    hub: Hub
    outbox: Outbox

    async def run(self, turn: Turn, keep: Keep = forget, store: Store = NO_STORE) -> list[Delta]:
        """Every delta of a turn's response."""
        ref = LogRef(turn.id, "ours", (self.hub.channel,), record=False)
        with self.hub.follow(turn.id) as follower, self.hub.tape(turn.id) as tape, self.outbox.writer(ref) as writer:
            answering = asyncio.create_task(self.flow.answer(turn, Run(writer, tape, store, keep)))
            deltas: list[Delta] = []
            async with asyncio.timeout(5):
                while not deltas or not isinstance(deltas[-1], Finished | Failed):
                    deltas += await follower.read()
                await answering
        assert [delta.seq for delta in deltas] == list(range(len(deltas)))
        return deltas


@pytest.fixture
async def stand(valkey: Redis) -> AsyncIterator[Stand]:
    settings = Settings(log=Log(tick_ms=1))
    hub = Hub(valkey, settings.log)
    hub.start()
    await hub.ready(5)
    retrieves, embeds = FakeRetrieves(), FakeEmbeds()
    chunks = [Chunk(0, "A headrace brings water to the wheel", (), 0, 36, 8)]
    await retrieves.replace(OURS, "vs_1", Source("file-1", "mill.md", "The mill"), chunks, await embeds.embed([chunks[0].text]))
    generates = Generates(Outbox(valkey, settings.log))
    yield Stand(Flow(settings, embeds, retrieves, FakeRoutes(), generates), generates, hub, Outbox(valkey, settings.log, local=hub))
    await hub.close()


def item(text: str) -> Item:
    name = new_id("msg_")
    body = {"id": name, "type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
    return Item(name, msgspec.json.encode(body))


def turn(question: str = "what brings water to the wheel", store_id: str | None = "vs_1", deadline_s: float = 5) -> Turn:
    messages = (Message("system", "Speak plainly"), Message("user", question))
    return Turn("r1", OURS, "headrace", messages, Sampling(), 0, deadline_s, store_id)


async def test_what_was_used_is_told_before_the_end_of_the_log_has_come_back(stand: Stand) -> None:
    """A client may leave in between: it pays what its response says it has used."""
    asked, slot = turn(), Counting()
    ref = LogRef(asked.id, "ours", (stand.hub.channel,), record=False)
    with stand.hub.tape(asked.id) as tape, stand.outbox.writer(ref) as writer:
        await stand.flow.answer(asked, Run(writer, tape, NO_STORE, slot=slot))
        assert not isinstance(tape.last, Finished)
        assert slot.used == Usage(5, 3)


async def test_a_turn_is_opened_written_and_finished(stand: Stand) -> None:
    deltas = await stand.run(turn())
    assert isinstance(deltas[0], Opened)
    assert "".join(delta.text for delta in deltas if isinstance(delta, Text)) == "so it is"
    last = deltas[-1]
    assert isinstance(last, Finished)
    assert (last.reason, last.usage) == ("stop", Usage(5, 3))
    assert abs(last.at - time.time()) < 5


async def test_an_answer_is_kept_whole_before_its_end_is_told(stand: Stand) -> None:
    kept: list[list[Delta]] = []

    async def keep(log: Sequence[Delta]) -> None:
        await asyncio.sleep(0.05)
        kept.append(list(log))

    deltas = await stand.run(turn(), keep)
    assert kept == [deltas]


async def test_an_answer_that_can_not_be_kept_has_failed(stand: Stand) -> None:
    async def keep(log: Sequence[Delta]) -> None:
        raise OperationalError("insert", {}, Exception("disk full"))

    last = (await stand.run(turn(), keep))[-1]
    assert isinstance(last, Failed)
    assert last.code == "server_error"
    assert "disk" not in last.message


async def test_a_search_that_was_asked_for_is_part_of_the_answer(stand: Stand) -> None:
    deltas = await stand.run(msgspec.structs.replace(turn(), search=Search()))
    assert [type(delta) for delta in deltas[:3]] == [Opened, Searching, Searched]
    assert isinstance(deltas[2], Searched)
    assert [hit.filename for hit in deltas[2].hits] == ["mill.md"]


async def test_a_follow_up_finds_what_the_question_before_it_was_about(stand: Stand) -> None:
    said = (Message("user", "what brings water to the wheel"), Message("assistant", "A headrace."), Message("user", "how long is it?"))
    await stand.run(msgspec.structs.replace(turn(), messages=said))
    await stand.run(msgspec.structs.replace(turn(), messages=said[2:]))
    assert [[passage.filename for passage in call.passages] for call in stand.generates.calls] == [["mill.md"], []]
    assert stand.generates.calls[0].messages[-1].content.endswith("how long is it?")


async def test_a_follow_up_within_a_conversation_finds_the_turn_before_it(stand: Stand, tmp_path: Path) -> None:
    async with database(tmp_path) as store:
        principal = await tenant(store, OURS.tenant)
        name = (await store.of(principal).conversations.add({}, [item("what brings water to the wheel")])).id
        await stand.run(msgspec.structs.replace(turn("how long is it?"), principal=principal, conversation_id=name), store=store)
    assert [passage.filename for passage in stand.generates.calls[0].passages] == ["mill.md"]


async def test_a_store_says_how_fast_it_ages(stand: Stand, tmp_path: Path) -> None:
    seen: list[float | None] = []

    class Noting(FakeRetrieves):
        async def search(self, query: Query) -> tuple[Passage, ...]:
            seen.append(query.half_life_s)
            return ()

    async with database(tmp_path) as store:
        principal = await tenant(store, OURS.tenant)
        ageing = await store.of(principal).add_store("news", metadata={"headrace.half_life_s": "86400"})
        static = await store.of(principal).add_store("manuals")
        stand.flow = replace(stand.flow, retrieves=Noting())
        for store_id in (ageing.id, static.id):
            await stand.run(msgspec.structs.replace(turn(store_id=store_id), principal=principal), store=store)
    assert seen == [86_400, None]


async def test_passages_under_the_score_that_was_asked_for_are_no_results(stand: Stand) -> None:
    deltas = await stand.run(msgspec.structs.replace(turn(), search=Search(min_score=0.999)))
    assert deltas[2] == Searched(2, ())
    assert stand.generates.calls[0].passages == ()


async def test_a_search_goes_by_its_filters(stand: Stand) -> None:
    for value, found in ((1820, ["mill.md"]), (1920, [])):
        stand.flow.retrieves.files.clear()  # type: ignore[attr-defined]
        chunks = [Chunk(0, "A headrace brings water to the wheel", (), 0, 36, 8)]
        source = Source("file-1", "mill.md", "The mill", {"year": 1820})
        await stand.flow.retrieves.replace(OURS, "vs_1", source, chunks, await FakeEmbeds().embed([chunks[0].text]))
        deltas = await stand.run(msgspec.structs.replace(turn(), search=Search(filters=Compare("eq", "year", value))))
        assert isinstance(deltas[2], Searched)
        assert [(hit.filename, hit.attributes) for hit in deltas[2].hits] == [(name, {"year": 1820}) for name in found]


async def test_what_was_found_reaches_the_prompt_with_its_link(stand: Stand) -> None:
    await stand.run(turn())
    generation = stand.generates.calls[0]
    assert generation.citation_urls == ("http://127.0.0.1:8000/files/file-1#chunk=0",)
    assert "A headrace brings water" in generation.messages[-1].content
    assert "Speak plainly" in generation.messages[0].content
    assert [message.role for message in generation.messages] == ["system", "user"]


def saying_so(stand: Stand) -> Stand:
    """The same, told to say so where the passages hardly speak to the question."""
    settings = stand.flow.settings
    return replace(stand, flow=replace(stand.flow, settings=settings.model_copy(update={"generator": Generator(unanswerable="say_so")})))


async def test_a_question_without_support_is_told_so_without_the_model(stand: Stand) -> None:
    deltas = await saying_so(stand).run(turn("who sells bread in town"))
    assert [delta.text for delta in deltas if isinstance(delta, Text)] == [UNANSWERED]
    assert not [delta for delta in deltas if isinstance(delta, Cited)]
    last = deltas[-1]
    assert isinstance(last, Finished)
    assert (last.reason, last.usage) == ("stop", Usage())
    assert stand.generates.calls == []


async def test_a_question_with_support_or_with_tools_is_the_models(stand: Stand) -> None:
    tools = Toolbox((Tool("f"),))
    for asked in (turn(), msgspec.structs.replace(turn("who sells bread in town"), toolbox=tools), turn("who?", store_id=None)):
        deltas = await saying_so(stand).run(asked)
        assert "".join(delta.text for delta in deltas if isinstance(delta, Text)) == "so it is"
    assert len(stand.generates.calls) == 3


async def test_by_default_the_model_is_asked_whatever_was_found(stand: Stand) -> None:
    await stand.run(turn("who sells bread in town"))
    assert len(stand.generates.calls) == 1


async def test_a_refusal_that_was_written_before_is_not_written_again(stand: Stand) -> None:
    ref = LogRef("r1", "ours", (stand.hub.channel,), record=False, written=(Opened(0), Text(1, UNANSWERED)))
    with stand.hub.tape("r1") as tape, stand.outbox.writer(ref) as writer:
        await saying_so(stand).flow.answer(turn("who sells bread in town"), Run(writer, tape, NO_STORE))
        assert [type(delta) for delta in writer.written] == [Opened, Text, Finished]


async def test_passages_over_the_budget_are_abridged_for_the_prompt_and_cited_whole(stand: Stand) -> None:
    text = "The miller lives beside it. " * 300 + "A headrace brings water to the wheel."
    chunk = Chunk(0, text, (), 0, len(text), 1200)
    source = Source("file-2", "long.md", "The mill")
    await stand.flow.retrieves.replace(OURS, "vs_1", source, [chunk], await stand.flow.embeds.embed(["water wheel headrace"]))
    await stand.flow.retrieves.replace(OURS, "vs_1", Source("file-1"), [], await stand.flow.embeds.embed([]))
    settings = stand.flow.settings.model_copy(update={"generator": Generator(base_url="http://127.0.0.1:1/v1")})
    await replace(stand, flow=replace(stand.flow, settings=settings)).run(turn())
    generation = stand.generates.calls[0]
    assert "A headrace brings water to the wheel." in generation.messages[-1].content
    assert len(generation.messages[-1].content) < 0.8 * len(text)
    assert generation.passages[0].chunk == chunk


async def test_without_a_store_nothing_is_embedded_and_the_messages_pass_unchanged(stand: Stand) -> None:
    await stand.run(turn(store_id=None))
    assert stand.generates.calls[0].messages == turn().messages
    assert stand.generates.calls[0].passages == ()


async def test_another_tenants_passages_are_never_found(stand: Stand) -> None:
    theirs = turn()
    theirs = Turn(theirs.id, Principal("theirs", "k", frozenset()), "headrace", theirs.messages, Sampling(), 0, 5, "vs_1")
    await stand.run(theirs)
    assert stand.generates.calls[0].passages == ()


@pytest.mark.parametrize(
    ("error", "code"),
    [(BackendFailed("no"), "backend_error"), (HeadraceError("no", code="own"), "own"), (ValueError("inside"), "server_error")],
)
async def test_a_broken_generation_ends_the_log_where_it_got_to(stand: Stand, error: Exception, code: str) -> None:
    stand.generates.error = error
    deltas = await stand.run(turn())
    last = deltas[-1]
    assert isinstance(last, Failed)
    assert last.code == code
    assert "inside" not in last.message
    assert "".join(delta.text for delta in deltas if isinstance(delta, Text)) == "so it is"


async def test_the_deadline_ends_the_turn_and_its_generation(stand: Stand) -> None:
    stand.generates.words, stand.generates.pause_s = ["w "] * 500, 0.01
    deltas = await stand.run(turn(deadline_s=0.2))
    assert isinstance(deltas[-1], Failed)
    assert (deltas[-1].status, deltas[-1].code, deltas[-1].retry) == (504, "deadline_exceeded", False)
    assert stand.generates.cancelled == 1


async def test_cancelling_ends_the_generation_and_closes_the_log(stand: Stand) -> None:
    stand.generates.words, stand.generates.pause_s = ["w "] * 500, 0.01
    ref = LogRef("r1", "ours", (stand.hub.channel,), False)
    with stand.hub.follow("r1") as follower, stand.hub.tape("r1") as tape, stand.outbox.writer(ref) as writer:
        answering = asyncio.create_task(stand.flow.answer(turn(), Run(writer, tape, NO_STORE)))
        while follower.next_seq < 3:
            await follower.read()
        answering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await answering
        deltas: list[Delta] = []
        while not deltas or not isinstance(deltas[-1], Cancelled):
            deltas += await follower.read()
    assert stand.generates.cancelled == 1


@dataclass
class Mortal(Generates):
    """Dies after some words as often as told; another goes on where the log ends."""

    deaths: int = 1

    async def generate(self, generation: Generation) -> Outcome:
        words = "".join(delta.text for delta in generation.log.written if isinstance(delta, Text)).split()
        self.calls.append(generation)
        with self.outbox.writer(generation.log) as writer:
            for number in range(len(words), 12):
                writer.text(f"w{number} ")
                await asyncio.sleep(0.005)
                if number % 4 == 3 and self.deaths:
                    self.deaths -= 1
                    raise Overloaded("a part of headrace is restarting", code="stage_unavailable")
            await writer.drain()
            return Outcome(writer.next_seq, "stop", Usage(5, 12))


SHARED = LogRef("r1", "ours", (), record=True, shared=True)


async def test_an_answer_that_outlives_its_connection_goes_on_where_its_generator_died(stand: Stand, valkey: Redis) -> None:
    mortal = Mortal(Outbox(valkey, Log(tick_ms=1)), deaths=2)
    flow = replace(stand.flow, generates=mortal)
    ref = msgspec.structs.replace(SHARED, channels=(stand.hub.channel,))
    with stand.hub.tape("r1") as tape, stand.outbox.writer(ref) as writer:
        await flow.answer(turn(store_id=None), Run(writer, tape, NO_STORE))
        await writer.drain()
    log = await read(valkey, ref)
    assert [delta.seq for delta in log] == list(range(len(log)))
    assert "".join(delta.text for delta in log if isinstance(delta, Text)).split() == [f"w{n}" for n in range(12)]
    assert isinstance(log[-1], Finished)
    assert [call.log.epoch for call in mortal.calls] == [1, 2, 3]


async def test_an_answer_that_was_taken_over_writes_nothing_more(stand: Stand, valkey: Redis) -> None:
    stand.generates.words, stand.generates.pause_s = ["w "] * 500, 0.01
    ref = msgspec.structs.replace(SHARED, channels=(stand.hub.channel,))
    with stand.hub.tape("r1") as tape, stand.outbox.writer(ref) as writer:
        answering = asyncio.create_task(stand.flow.answer(turn(), Run(writer, tape, NO_STORE)))
        await tape.until(5, 5)
        before = await seize(valkey, msgspec.structs.replace(ref, epoch=9), 60)
        with pytest.raises(StreamInterrupted, match="taken over"):
            await answering
    assert await read(valkey, ref) == before


@dataclass
class Tiered:
    """A router that sends everything to the large tier."""

    asked: list[Turn] = field(default_factory=list)

    async def route(self, turn: Turn, vector: Vector) -> Route:
        self.asked.append(turn)
        return Route(False, 0, "a test", "large")


LARGE = Settings(log=Log(tick_ms=1), generator=Generator(fallbacks=(Upstream(name="large", base_url="u", model="m", tier="large"),)))


@pytest.mark.parametrize(("settings", "tier"), [(Settings(log=Log(tick_ms=1)), None), (LARGE, "large")])
async def test_a_turn_with_nothing_to_search_is_routed_where_there_are_tiers_only(
    stand: Stand, settings: Settings, tier: Tier | None
) -> None:
    router = Tiered()
    stand.flow = replace(stand.flow, settings=settings, routes=router)
    await stand.run(turn(store_id=None))
    assert stand.generates.calls[0].tier == tier
    assert len(router.asked) == (tier is not None)


class Down:
    """A stage that is away."""

    async def embed(self, texts: Sequence[str], caller: Principal | None = None) -> Vectors:
        raise Overloaded("a part of headrace is restarting")

    async def route(self, turn: Turn, vector: Vector) -> Route:
        raise Overloaded("a part of headrace is restarting")


@pytest.mark.parametrize("part", ["embeds", "routes"])
async def test_a_direct_answer_goes_on_without_a_tier_while_embedder_or_router_is_away(stand: Stand, part: str) -> None:
    stand.flow = replace(stand.flow, settings=LARGE, **{part: Down()})
    assert isinstance((await stand.run(turn(store_id=None)))[-1], Finished)
    assert stand.generates.calls[0].tier is None
    assert isinstance((await stand.run(turn()))[-1], Failed)  # what is to be found in documents waits for both


async def test_a_model_of_the_catalogue_goes_with_its_call_and_its_tiers_are_asked_about(stand: Stand) -> None:
    listed: Any = {"name": "large", "base_url": "http://large/v1", "model": "m", "tier": "large"}
    mine, router = Model(name="mine", backends=(listed,)), Tiered()
    stand.flow = replace(stand.flow, settings=stand.flow.settings.model_copy(update={"models": (mine,)}), routes=router)
    await stand.run(msgspec.structs.replace(turn(store_id=None), model="mine", handling=handling(mine)))
    await stand.run(turn(store_id=None))
    assert [(call.model, call.tier) for call in stand.generates.calls] == [(mine, "large"), (None, None)]


async def test_only_the_embedded_model_is_held_to_sentences_of_the_passages(stand: Stand) -> None:
    listed: Any = {"name": "hosted", "base_url": "http://hosted/v1", "model": "m"}
    models = (Model(name="mine", backends=(listed, "primary")), Model(name="same", backends=("primary",)))
    chunk = Chunk(0, "A headrace is the channel that brings water to the wheel of a mill.", (), 0, 67, 14)
    retrieves = FakeRetrieves()
    await retrieves.replace(OURS, "vs_1", Source("file-1"), [chunk], await FakeEmbeds().embed([chunk.text]))
    stand.flow = replace(stand.flow, settings=stand.flow.settings.model_copy(update={"models": models}), retrieves=retrieves)
    for model in models:
        await stand.run(msgspec.structs.replace(turn(), model=model.name))
    assert [bool(call.quotes) for call in stand.generates.calls] == [False, True]
    assert all(call.passages for call in stand.generates.calls)


async def test_a_model_that_was_removed_meanwhile_ends_the_answer_as_one_that_is_not_there(stand: Stand) -> None:
    failed = (await stand.run(msgspec.structs.replace(turn(store_id=None), model="gone")))[-1]
    assert isinstance(failed, Failed)
    assert (failed.status, failed.code) == (404, "model_not_found")
    assert not stand.generates.calls
