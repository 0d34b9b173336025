"""What of a conversation reaches the prompt, however long it has become."""

import json
import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
import pytest

from deployments.core.config import Session, Settings
from deployments.core.conversations import Conversations, Placed, Summary
from deployments.core.ids import new_id
from deployments.core.jobs import REMEMBER
from deployments.core.responses import Item
from deployments.core.store import Store, TenantStore
from deployments.core.types import Generation, Message, Outcome, Principal, Vector, Vectors
from deployments.embedder.model import load
from pipeline.prompts.seeds import SEEDS
from pipeline.remember import Remember, instruction
from pipeline.session import EARLIER, SUMMARY, Recall, newest, recalled, spoken, tokens
from tests.fakes import DIMENSIONS, FakeEmbeds, database, means, tenant

LIMITS = Session()
SUBJECTS = [
    "dog", "cat", "sister", "car", "favourite colour", "birthday", "boss", "home town", "first job", "allergy", "bicycle", "piano teacher",
    "wifi password", "flight", "hotel", "dentist", "landlord", "garden", "telescope", "bank", "doctor", "school", "holiday", "passport",
    "laptop", "phone", "favourite book", "favourite film", "neighbour", "goldfish", "coffee machine", "umbrella", "motorbike", "gym",
    "grandmother", "best friend", "violin", "boat", "recipe", "cousin", "lawyer", "plumber", "parrot", "camera", "tent", "server",
    "project", "invoice", "meeting room", "parking spot",
]  # fmt: skip
WORDS = ["amber", "cobalt", "willow", "saffron", "onyx"]
SMALL_TALK = [
    "How does rank fusion combine two result lists?", "Write a haiku about rain.", "What is the capital of Peru?",
    "Explain recursion to a child.", "Translate good morning into Finnish.", "How do I boil an egg?", "Why is the sky blue?",
    "Give me three names for a bakery.", "What does a heat pump do?", "Summarise the plot of Hamlet.",
]  # fmt: skip


class Embeds(Protocol):
    async def embed(self, texts: Sequence[str], caller: Principal | None = None) -> Vectors: ...


class RealEmbeds:
    """The embedded model, in this process."""

    def __init__(self, folder: Path) -> None:
        self._encoder = load(Settings(data_dir=folder))

    async def embed(self, texts: Sequence[str], caller: Principal | None = None) -> Vectors:
        return self._encoder.encode(texts)


class Silent:
    """A model that is never asked."""

    async def generate(self, generation: Generation) -> Outcome:
        raise AssertionError("nobody should ask")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with database(tmp_path) as store:
        yield store


@pytest.fixture
async def acme(store: Store) -> TenantStore:
    return store.of(await tenant(store, "acme"))


def said(role: str, text: str) -> Item:
    name = new_id("msg_")
    kind = "output_text" if role == "assistant" else "input_text"
    return Item(name, json.dumps({"id": name, "type": "message", "role": role, "content": [{"type": kind, "text": text}]}).encode())


async def grown(mine: TenantStore, turns: Sequence[tuple[str, str]], embeds: Embeds) -> str:
    """A conversation of those turns, every one with its vector."""
    name = (await mine.conversations.add({})).id
    for start in range(0, len(turns), 10):
        pairs = turns[start : start + 10]
        await mine.conversations.add_items(
            name, [said(role, text) for pair in pairs for role, text in zip(("user", "assistant"), pair, strict=True)]
        )
    while items := await mine.conversations.unembedded(name, 64):
        vectors = await embeds.embed([one.message.content for one in spoken(items)])
        await mine.conversations.set_vectors(name, [item.position for item in items], vectors)
    return name


async def ask(conversations: Conversations, name: str, question: str, embeds: Embeds, limits: Session = LIMITS) -> tuple[Message, ...]:
    vector: Vector = (await embeds.embed([question]))[0]
    earlier = await Recall(limits).messages(conversations, name, vector)
    return recalled((Message("system", "Be kind"), Message("user", question)), earlier)


async def test_a_short_conversation_goes_in_word_for_word(acme: TenantStore) -> None:
    embeds = FakeEmbeds()
    name = await grown(acme, [("one", "two"), ("three", "four")], embeds)
    messages = await ask(acme.conversations, name, "five", embeds)
    assert [(m.role, m.content) for m in messages] == [
        ("system", "Be kind"),
        ("user", "one"),
        ("assistant", "two"),
        ("user", "three"),
        ("assistant", "four"),
        ("user", "five"),
    ]


async def test_a_long_conversation_costs_what_a_short_one_costs_and_still_finds_what_was_said_early(acme: TenantStore) -> None:
    embeds = FakeEmbeds()
    turns = [(f"filler number {n} about nothing", "I see, go on please. " * 10) for n in range(120)]
    turns[3] = ("the anchor weighs ninety kilograms", "Noted.")
    name = await grown(acme, turns, embeds)
    await acme.conversations.set_summary(name, Summary("They spoke of boats.", 200))
    messages = await ask(acme.conversations, name, "how much weighs the anchor", embeds)
    system = messages[0].content
    assert system.startswith("Be kind")
    assert SUMMARY + "They spoke of boats." in system
    assert EARLIER in system
    assert "- the user: the anchor weighs ninety kilograms" in system
    assert messages[-1].content == "how much weighs the anchor"
    assert sum(tokens(message) for message in messages) < LIMITS.recent_tokens + LIMITS.recalled_tokens + LIMITS.summary_tokens + 60
    assert [message.role for message in messages[1:3]] == ["user", "assistant"]


def test_the_newest_message_goes_in_even_where_it_is_over_the_budget() -> None:
    long = [said("user", "x" * 9000)]
    recent = newest(spoken([placed(n, item) for n, item in enumerate(long)]), 10)
    assert len(recent) == 1


def placed(position: int, item: Item):
    from deployments.core.conversations import Placed

    return Placed(position, item)


def test_what_is_recalled_comes_without_its_images() -> None:
    part = {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo=", "detail": "auto"}
    body = msgspec.json.decode(said("user", "What is this?").body)
    seen = Item("msg_1", msgspec.json.encode(body | {"content": [*body["content"], part]}))
    (recalled_one,) = spoken([Placed(0, seen)])
    assert recalled_one.message == Message("user", "What is this?")


async def test_what_is_said_gets_its_vector_and_what_is_old_its_summary(store: Store, acme: TenantStore) -> None:
    embeds, asked = FakeEmbeds(), list[Sequence[Message]]()

    class Writes(Remember):
        async def _write(self, means: object, job: object, before: str, said: list[Message]) -> str:
            asked.append(said)
            return f"{before}+{len(said)}"

    settings = Settings(session=Session(summarise_items=4))
    remember = Writes(settings, embeds, Silent())
    name = (await acme.conversations.add({})).id
    for number in range(6):
        await acme.conversations.add_items(name, [said("user", f"question {number}"), said("assistant", f"answer {number}")])
        job = await store.jobs.lease({REMEMBER: 60})
        assert job
        await remember.run(means(store), job)
    assert await store.jobs.backlog() == 0
    positions, vectors = await acme.conversations.vectors(name, 100, 100, DIMENSIONS)
    assert positions == list(range(11, -1, -1))
    assert np.allclose(vectors[0], FakeEmbeds.vector("answer 5"))
    summary = await acme.conversations.summary(name)
    assert summary == Summary("+4+4", 8)
    assert [message.content for message in asked[1]] == [f"{kind} {n}" for n in (2, 3) for kind in ("question", "answer")]


async def test_a_summary_is_asked_for_in_the_tenants_own_words_where_it_has_some(acme: TenantStore) -> None:
    assert await instruction(acme.prompts) == (SEEDS["summary"], "summary@1")
    await acme.prompts.add("summary", "Be brief.", "test", current=True)
    assert await instruction(acme.prompts) == ("Be brief.", "summary@2")


async def test_another_message_meanwhile_has_it_done_again_without_ending_what_runs(store: Store, acme: TenantStore) -> None:
    name = (await acme.conversations.add({}, [said("user", "one")])).id
    job = await store.jobs.lease({REMEMBER: 60})
    assert job
    await acme.conversations.add_items(name, [said("user", "two")])
    assert await store.jobs.extend(job, 60)
    await Remember(Settings(), FakeEmbeds(), Silent()).run(means(store), job)
    assert (await store.jobs.lease({REMEMBER: 60})) is not None


async def test_a_conversation_that_was_deleted_is_forgotten(store: Store, acme: TenantStore) -> None:
    name = (await acme.conversations.add({}, [said("user", "one")])).id
    await acme.conversations.delete(name)
    assert await store.jobs.lease({REMEMBER: 60}) is None


@pytest.mark.full
async def test_planted_facts_reach_the_prompt_after_two_hundred_turns(acme: TenantStore, tmp_path: Path) -> None:
    embeds, chance = RealEmbeds(tmp_path), random.Random(7)
    facts = {
        subject: f"{chance.choice(['amber', 'cobalt', 'willow', 'saffron', 'onyx'])}-{chance.randrange(100, 999)}" for subject in SUBJECTS
    }
    turns = [
        (f"By the way, the code word for my {subject} is {word}.", "Thank you, I will remember that.") for subject, word in facts.items()
    ]
    turns += [(f"{chance.choice(SMALL_TALK)} ({n})", "Here is a short answer to that. " * 6) for n in range(150)]
    name = await grown(acme, turns, embeds)
    found = 0
    for subject, word in facts.items():
        messages = await ask(acme.conversations, name, f"What was the code word for my {subject}?", embeds)
        found += any(word in message.content for message in messages)
    print(f"planted facts that reach the prompt: {found} of {len(facts)}")  # noqa: T201
    assert found >= 45


@pytest.mark.full
async def test_early_turns_of_real_conversations_are_recalled(acme: TenantStore, tmp_path: Path, data: Path) -> None:
    embeds, found, asked = RealEmbeds(tmp_path), 0, 0
    limits = Session(recent_tokens=64)
    for turns in dialogues(data)[:100]:
        name = await grown(acme, turns, embeds)
        question = turns[0][0]
        messages = await ask(acme.conversations, name, f"Let us come back to this: {question[:200]}", embeds, limits)
        asked += 1
        found += any(question[:80] in message.content for message in messages)
    print(f"first questions of conv_mtbench101 that are recalled: {found} of {asked}")  # noqa: T201
    assert found >= 0.8 * asked


def dialogues(data: Path) -> list[list[tuple[str, str]]]:
    """The dialogues of MT-Bench-101 with at least three turns."""
    found: list[list[tuple[str, str]]] = []
    for file in sorted((data / "conv_mtbench101").glob("*.jsonl")):
        for line in file.read_text().splitlines():
            turns = [(turn["user"], turn["bot"]) for turn in json.loads(line)["history"]]
            if len(turns) >= 3 and all(user and bot for user, bot in turns):
                found.append(turns)
    return found
