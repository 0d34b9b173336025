"""What is done with a conversation behind its back: vectors for what was said, and a summary of what is old."""

from dataclasses import dataclass

import numpy as np

from deployments.core.account import Account
from deployments.core.config import Settings
from deployments.core.conversations import Conversations, Summary
from deployments.core.errors import NotFound
from deployments.core.ids import new_id
from deployments.core.jobs import Job
from deployments.core.lease import BACKGROUND, Want
from deployments.core.models import DIRECT
from deployments.core.ports import Embeds, Generates
from deployments.core.prompts import SEED, Prompts, named
from deployments.core.types import Generation, LogRef, Message, Sampling, Text
from deployments.worker.work import Means, Reason
from pipeline.prompts.seeds import SEEDS
from pipeline.prompts.summarise import summarise
from pipeline.session import clip, spoken

_SLICE_ITEMS = 64
"""Messages embedded in one call."""

_EMBEDDED_CHARS = 2000
"""Of a longer message only the beginning is embedded; the model reads no more."""

_SUMMARY_S = 60.0
"""How long writing a summary may take."""

_PROMPT_TOKENS = 1000
"""Of what is to be summed up, as much as fits a small model."""

_END = 1 << 31


@dataclass(frozen=True)
class Remember:
    """Keeps a conversation in mind; implements the worker's `Handles`. Its subject is the conversation."""

    settings: Settings
    embeds: Embeds
    generates: Generates
    at_once: int = 2

    @property
    def lease_s(self) -> float:
        """Nobody waits for it."""
        return self.settings.worker.lease_s

    async def run(self, means: Means, job: Job) -> None:
        """Embed what has no vector yet, and sum up what is old once enough of it has gathered; raises NotFound."""
        conversation = means.store.of(job.principal).conversations
        await self._embed(conversation, job)
        await self._sum_up(conversation, means, job)
        async with means.store.jobs.finishing(job):
            pass

    async def give_up(self, means: Means, job: Job, code: Reason, message: str) -> None:
        """The conversation goes on without; its next message brings another attempt."""
        async with means.store.jobs.finishing(job, "failed", code):
            pass

    async def lost(self, means: Means, job: Job) -> None:
        """Nothing is left outside of SQL."""

    async def _embed(self, conversation: Conversations, job: Job) -> None:
        while items := await conversation.unembedded(job.subject, _SLICE_ITEMS):
            words = {one.position: one.message.content[:_EMBEDDED_CHARS] for one in spoken(items)}
            found = await self.embeds.embed(list(words.values()), job.principal) if words else np.zeros((0, 1), np.float32)
            nothing = np.zeros(found.shape[1], np.float32)
            vectors = dict(zip(words, found, strict=True))
            positions = [item.position for item in items]
            await conversation.set_vectors(job.subject, positions, np.stack([vectors.get(position, nothing) for position in positions]))

    async def _sum_up(self, conversation: Conversations, means: Means, job: Job) -> None:
        """Take the older part of what the summary lacks into it; the newer part is still said word for word."""
        before = await conversation.summary(job.subject) or Summary("", 0)
        pending = spoken(await conversation.between(job.subject, before.upto, _END))
        kept = self.settings.session.summarise_items
        if len(pending) < 2 * kept:
            return
        old = pending[:-kept]
        text = await self._write(means, job, before.text, [one.message for one in old])
        if text:
            await conversation.set_summary(job.subject, Summary(text, old[-1].position + 1))

    async def _write(self, means: Means, job: Job, before: str, said: list[Message]) -> str:
        """The summary as the model writes it."""
        await means.hub.ready(self.settings.log.stall_s)
        name = new_id("sum_")
        short = [Message(message.role, clip(message.content, max(16, _PROMPT_TOKENS // len(said)))) for message in said]
        sampling = Sampling(max_tokens=self.settings.session.summary_tokens, temperature=0.0)
        log = LogRef(name, job.tenant, (means.hub.channel,), record=False)
        text, version = await instruction(means.store.of(job.principal).prompts)
        account = Account(job.principal.key_id, model=DIRECT, route="summary", prompt=version)
        generation = Generation(log, summarise(before, short, text), sampling, (), (), _SUMMARY_S, account=account)
        most, longest_s = self.settings.session.summary_tokens, self.settings.admission.background_wait_s
        prompt = await means.gate.vocabulary.count(generation.messages)
        want = Want(DIRECT, prompt, most, most, longest_s, service=BACKGROUND, requests=0)
        with means.hub.tape(name) as tape:
            async with means.gate.admit(job.principal, want) as lease:
                lease.tape = tape
                async with lease:
                    outcome = await self.generates.generate(generation)
                lease.spent(outcome.usage)
            await tape.until(outcome.next_seq, self.settings.log.stall_s)
            return "".join(delta.text for delta in tape.deltas if isinstance(delta, Text)).strip()


async def instruction(prompts: Prompts) -> tuple[str, str]:
    """The prompt of a summary, the tenant's own where it has one, and its name."""
    try:
        own = await prompts.get("summary")
    except NotFound:
        return SEEDS["summary"], named("summary", str(SEED))
    return own.template, own.name
