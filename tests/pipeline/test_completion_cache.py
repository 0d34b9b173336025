"""The completion cache before a flow, with a real log, a real database and a real Valkey."""

import asyncio
import contextlib
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from deployments.core.config import Cache, Log, Settings
from deployments.core.follow import Hub
from deployments.core.handling import Handling
from deployments.core.images import Image
from deployments.core.jobs import INGEST, Job
from deployments.core.outbox import Outbox
from deployments.core.run import Keep, Run, forget
from deployments.core.store import Store
from deployments.core.tools import OWN, Approval, Selection, Toolbox
from deployments.core.types import (
    Called,
    Chunk,
    Citation,
    Cited,
    Delta,
    Failed,
    Finished,
    Generation,
    LogRef,
    Message,
    Outcome,
    Principal,
    Reason,
    Reuse,
    Sampling,
    Search,
    Searched,
    Source,
    Text,
    Turn,
    Usage,
)
from pipeline.cache import Cached
from pipeline.flow import Flow
from pipeline.jobs import Ingest
from tests.conftest import Server
from tests.fakes import FakeEmbeds, FakeRetrieves, FakeRoutes, database, means, tenant, until

EXACT, CLOSE = Reuse(), Reuse(0.97)
QUESTION = "what brings water to the wheel"


@dataclass
class Reads:
    """A model that repeats the passages it is given, and cites the first."""

    outbox: Outbox
    calls: list[Generation] = field(default_factory=list)
    reason: Reason = "stop"
    function: str | None = None

    async def generate(self, generation: Generation) -> Outcome:
        self.calls.append(generation)
        with self.outbox.writer(generation.log) as writer:
            text = f"Call {len(self.calls)}: " + " ".join(passage.chunk.text for passage in generation.passages)
            for word in text.split(" "):
                writer.text(f"{word} ")
                await asyncio.sleep(0)
            if generation.passages:
                writer.text("[1]")
                writer.cite(Citation(len(text) + 1, len(text) + 4, 1, generation.citation_urls[0], generation.passages[0].title))
                writer.text(" So it is.")
            if self.function:
                writer.call(0, "call_1", self.function, "{}")
            await writer.drain()
            return Outcome(writer.next_seq, self.reason, Usage(5, 3))


@dataclass
class Stand:
    """A cached flow with fakes for its stages, and the way to run a turn through it."""

    cached: Cached
    model: Reads
    embeds: FakeEmbeds
    retrieves: FakeRetrieves
    store: Store
    hub: Hub
    outbox: Outbox
    ours: Principal
    runs: int = 0

    async def run(self, turn: Turn, keep: Keep = forget) -> list[Delta]:
        """Every delta of a turn's response."""
        self.runs += 1
        ref = LogRef(f"r{self.runs}", turn.principal.tenant, (self.hub.channel,), record=False)
        turn = msgspec.structs.replace(turn, id=ref.response_id)
        with self.hub.follow(turn.id) as follower, self.hub.tape(turn.id) as tape, self.outbox.writer(ref) as writer:
            answering = asyncio.create_task(self.cached.answer(turn, Run(writer, tape, self.store, keep)))
            deltas: list[Delta] = []
            async with asyncio.timeout(5):
                while not deltas or not isinstance(deltas[-1], Finished | Failed):
                    deltas += await follower.read()
                await answering
        assert [delta.seq for delta in deltas] == list(range(len(deltas)))
        return deltas

    def turn(self, question: str = QUESTION, store_id: str | None = None, reuse: Reuse | None = EXACT) -> Turn:
        messages = (Message("system", "Speak plainly"), Message("user", question))
        return Turn("r", self.ours, "headrace", messages, Sampling(), 0, 5, store_id, reuse=reuse)

    async def put(self, store_id: str, file_id: str, text: str) -> None:
        """Ingest a file into a store, as the worker does: the index first."""
        chunks = [Chunk(0, text, (), 0, len(text), 8)]
        vectors = await self.embeds.embed([text])
        await self.retrieves.replace(self.ours, store_id, Source(file_id, "mill.md", "The mill"), chunks, vectors)
        await self.store.of(self.ours).complete(store_id, file_id, "The mill", text, chunks, vectors)

    async def filled(self, text: str) -> tuple[str, str]:
        """A store with one file that says that."""
        mine = self.store.of(self.ours)
        store_id, file_id = (await mine.add_store("docs")).id, (await mine.add_file("mill.md", "assistants", text.encode())).id
        await mine.add_member(store_id, file_id, {})
        await self.put(store_id, file_id, text)
        return store_id, file_id


def said(log: Sequence[Delta]) -> str:
    return "".join(delta.text for delta in log if isinstance(delta, Text))


def ended(log: Sequence[Delta]) -> Finished:
    assert isinstance(log[-1], Finished), log[-1]
    return log[-1]


@contextlib.asynccontextmanager
async def standing(valkey: Redis, url: str, folder: Path, **limits: float) -> AsyncIterator[Stand]:
    settings = Settings(log=Log(tick_ms=1), valkey_url=SecretStr(url), cache=Cache.model_validate(limits))
    hub = Hub(valkey, settings.log)
    hub.start()
    await hub.ready(5)
    embeds, retrieves, model = FakeEmbeds(), FakeRetrieves(), Reads(Outbox(valkey, settings.log))
    cached = Cached(settings, Flow(settings, embeds, retrieves, FakeRoutes(), model), embeds)
    async with database(folder) as store:
        ours = await tenant(store, "ours")
        yield Stand(cached, model, embeds, retrieves, store, hub, Outbox(valkey, settings.log, local=hub), ours)
    await cached.close()
    await hub.close()


@pytest.fixture
async def stand(valkey: Redis, valkey_server: Server, tmp_path: Path) -> AsyncIterator[Stand]:
    async with standing(valkey, valkey_server.url, tmp_path) as stand:
        yield stand


async def test_nothing_is_kept_of_who_did_not_ask_for_it(stand: Stand, valkey: Redis) -> None:
    for _ in range(2):
        await stand.run(stand.turn(reuse=None))
    assert len(stand.model.calls) == 2
    assert await valkey.keys("hr:*cache*") == []


async def test_an_answer_with_tools_of_headraces_or_an_approval_is_given_anew(stand: Stand, valkey: Redis) -> None:
    await stand.run(stand.turn())
    kept = await valkey.keys("hr:*cache*")
    for _ in range(2):
        await stand.run(msgspec.structs.replace(stand.turn(), toolbox=Toolbox(allowed=(Selection(OWN),))))
    assert len(stand.model.calls) == 3
    approved = Approval("mcpr_1", OWN, "look", "{}", granted=True, origin="resp_1")
    last = (await stand.run(msgspec.structs.replace(stand.turn(), approvals=(approved,))))[-1]
    assert isinstance(last, Failed)  # it was looked at, and is none
    assert await valkey.keys("hr:*cache*") == kept


async def test_the_same_question_is_answered_as_before_without_the_model(stand: Stand) -> None:
    store_id, _ = await stand.filled("A headrace brings water to the wheel")
    turn = msgspec.structs.replace(stand.turn(store_id=store_id), search=Search())
    kept: list[list[Delta]] = []

    async def keep(log: Sequence[Delta]) -> None:
        kept.append(list(log))

    first, second = await stand.run(turn, keep), await stand.run(turn, keep)
    assert said(second) == said(first) == "Call 1: A headrace brings water to the wheel [1] So it is."
    for kind in (Cited, Searched):
        assert [msgspec.structs.replace(d, seq=0) for d in second if isinstance(d, kind)] == [
            msgspec.structs.replace(d, seq=0) for d in first if isinstance(d, kind)
        ]
    assert any(isinstance(delta, Cited) for delta in second)
    assert (ended(first).usage, ended(second).usage) == (Usage(5, 3), Usage(5, 3, replayed=True))
    assert len(stand.model.calls) == 1
    assert kept == [first, second]  # a response of its own, kept like any other


async def test_what_a_replaced_document_said_is_not_said_again(stand: Stand) -> None:
    store_id, file_id = await stand.filled("A headrace brings water to the wheel")
    for reuse in (EXACT, CLOSE):
        turn = stand.turn(store_id=store_id, reuse=reuse)
        await stand.run(turn)
        text = f"A penstock brings water to the wheel, {reuse}"
        await stand.put(store_id, file_id, text)
        assert text in said(await stand.run(turn))


async def test_what_a_removed_document_said_is_not_said_again(stand: Stand) -> None:
    mine = stand.store.of(stand.ours)
    for remove in ("member", "file"):
        store_id, file_id = await stand.filled(f"A headrace brings water to the wheel of the {remove}")
        turn = stand.turn(store_id=store_id, reuse=CLOSE)
        assert "headrace" in said(await stand.run(turn))
        stand.retrieves.files.clear()
        await (mine.remove_member(store_id, file_id) if remove == "member" else mine.delete_file(file_id))
        assert "headrace" not in said(await stand.run(turn))


async def test_an_answer_that_was_begun_before_a_change_is_not_given_after_it(stand: Stand) -> None:
    store_id, file_id = await stand.filled("A headrace brings water to the wheel")
    turn = stand.turn(store_id=store_id)

    async def changed_meanwhile(log: Sequence[Delta]) -> None:
        await stand.put(store_id, file_id, "A penstock brings water to the wheel")

    assert "headrace" in said(await stand.run(turn, changed_meanwhile))
    assert "penstock" in said(await stand.run(turn))


async def test_a_question_that_means_the_same_is_answered_where_that_was_asked_for(stand: Stand) -> None:
    await stand.run(stand.turn(reuse=CLOSE))
    same = "to the wheel: what brings water?"
    assert not ended(await stand.run(stand.turn(same, reuse=EXACT))).usage.replayed
    assert ended(await stand.run(stand.turn("What brings WATER to the wheel?", reuse=CLOSE))).usage.replayed
    assert not ended(await stand.run(stand.turn("what brings water to the mill", reuse=CLOSE))).usage.replayed
    assert not ended(await stand.run(stand.turn("what brings water to the wheel now", reuse=Reuse(0.99)))).usage.replayed


async def test_other_numbers_are_another_question(stand: Stand) -> None:
    long = "how many litres of water did the headrace bring to the old wheel of the lower mill in the summer of the year "
    vectors = await stand.embeds.embed([long + "1911", long + "1912"])
    least = float(vectors[0] @ vectors[1]) - 0.001
    await stand.run(stand.turn(long + "1911", reuse=Reuse(least)))
    assert not ended(await stand.run(stand.turn(long + "1912", reuse=Reuse(least)))).usage.replayed
    assert ended(await stand.run(stand.turn(long + "1911?", reuse=Reuse(least)))).usage.replayed


async def test_the_same_words_about_another_image_or_to_another_definition_of_the_model_are_another_question(stand: Stand) -> None:
    plain = stand.turn()
    *before, asked = plain.messages
    seen = [msgspec.structs.replace(asked, images=(Image("png", data),)) for data in (b"1", b"2")]
    turns = [plain, *(msgspec.structs.replace(plain, messages=(*before, one)) for one in seen)]
    turns.append(msgspec.structs.replace(plain, handling=Handling(recipe="changed")))
    assert [ended(await stand.run(turn)).usage.replayed for turn in turns * 2] == [False] * 4 + [True] * 4


async def test_the_question_is_embedded_once_for_cache_and_search(stand: Stand) -> None:
    store_id, _ = await stand.filled("A headrace brings water to the wheel")
    before = len(stand.embeds.calls)
    await stand.run(stand.turn(store_id=store_id, reuse=CLOSE))
    assert len(stand.embeds.calls) == before + 1


async def test_what_is_cut_short_or_calls_a_function_or_is_part_of_a_conversation_is_not_kept(stand: Stand, valkey: Redis) -> None:
    stand.model.reason = "length"
    await stand.run(stand.turn())
    stand.model.reason, stand.model.function = "stop", "f"
    assert any(isinstance(delta, Called) for delta in await stand.run(stand.turn()))
    stand.model.function = None
    conversation = await stand.store.of(stand.ours).conversations.add({}, ())
    await stand.run(msgspec.structs.replace(stand.turn(), conversation_id=conversation.id))
    assert await valkey.keys("hr:*cache*") == []


async def test_what_is_kept_is_sealed_named_without_a_word_and_expires(stand: Stand, valkey: Redis) -> None:
    store_id, _ = await stand.filled("A headrace brings water to the wheel")
    await stand.run(stand.turn(store_id=store_id, reuse=CLOSE))
    names = await valkey.keys("hr:*cache*")
    assert len(names) == 3
    for name in names:
        assert 0 < await valkey.ttl(name) <= 3600
        assert b"water" not in (await valkey.dump(name) or b"") + name
    vector = (await stand.embeds.embed([QUESTION]))[0]
    kept = await valkey.lrange(next(name for name in names if name.endswith(b":near")), 0, -1)
    assert vector.astype("<f4").tobytes() not in kept[0]


async def test_an_answer_that_was_moved_does_not_open(stand: Stand, valkey: Redis) -> None:
    await stand.run(stand.turn("the first question"))
    (first,) = await valkey.keys("hr:*cache:*")
    await stand.run(stand.turn("the second question"))
    (second,) = [name for name in await valkey.keys("hr:*cache:*") if name != first]
    await valkey.copy(second, first, replace=True)
    assert said(await stand.run(stand.turn("the first question"))).startswith("Call 3")


async def test_an_answer_that_is_too_large_is_not_kept(valkey: Redis, valkey_server: Server, tmp_path: Path) -> None:
    async with standing(valkey, valkey_server.url, tmp_path, max_bytes=1024) as stand:
        store_id, _ = await stand.filled("water " * 300)
        await stand.run(stand.turn("water", store_id))
        assert await valkey.keys("hr:*cache*") == []


async def test_the_oldest_goes_where_there_are_too_many(valkey: Redis, valkey_server: Server, tmp_path: Path) -> None:
    async with standing(valkey, valkey_server.url, tmp_path, max_entries=3, max_vectors=2) as stand:
        for number in range(5):
            await stand.run(stand.turn(f"question {number}"))
            await asyncio.sleep(0.002)
        assert len(await valkey.keys("hr:*cache:*")) == 3
        assert not ended(await stand.run(stand.turn("question 0"))).usage.replayed
        assert ended(await stand.run(stand.turn("question 4"))).usage.replayed
        await valkey.flushall()
        for words in ("a b", "c d", "e f"):
            await stand.run(stand.turn(words, reuse=CLOSE))
        (near,) = await valkey.keys("*:near")
        assert await valkey.llen(near) == 2


@pytest.fixture
def own_valkey(valkey_program: str) -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder), valkey_program)
        server.start()
        yield server
        server.kill()


async def test_a_valkey_that_is_away_or_hangs_is_a_miss(valkey: Redis, own_valkey: Server, tmp_path: Path) -> None:
    async with standing(valkey, own_valkey.url, tmp_path) as stand:
        await until(Path(own_valkey.url.removeprefix("unix://")).exists)
        await stand.run(stand.turn())
        assert ended(await stand.run(stand.turn())).usage.replayed
        own_valkey.signal(signal.SIGSTOP)
        started = time.monotonic()
        assert said(await stand.run(stand.turn(reuse=CLOSE))).startswith("Call 2")
        assert time.monotonic() - started < 4  # a reply that hangs is given up by the client after 5 s
        own_valkey.kill()
        assert said(await stand.run(stand.turn(reuse=CLOSE))).startswith("Call 3")


async def test_a_worker_that_takes_a_file_out_of_the_index_makes_what_was_read_from_it_old(stand: Stand) -> None:
    store_id, file_id = await stand.filled("A headrace brings water to the wheel")
    turn = stand.turn(store_id=store_id)
    await stand.run(turn)
    await stand.store.of(stand.ours).delete_file(file_id)
    assert "headrace" in said(await stand.run(turn))  # the index has it still, as a worker had put it there meanwhile
    ingest = Ingest(Settings(), stand.embeds, stand.retrieves)
    await ingest.lost(means(stand.store), Job("job", "ours", INGEST, f"{store_id}/{file_id}", 1, 1))
    assert "headrace" not in said(await stand.run(turn))
