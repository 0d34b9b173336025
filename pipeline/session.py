"""The session of a turn: what of its conversation goes before the question, however long the conversation has become.

Three parts, each within a budget of its own, so that turn 200 costs what turn 20 costs: the newest messages as they were; a summary
of what came before, written in the background; and single earlier messages that are about the same thing as the question, because a
small model's summary forgets.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from deployments.core.config import Session as Limits
from deployments.core.conversations import Conversations, Placed
from deployments.core.estimate import CHARS_PER_TOKEN, estimate
from deployments.core.types import Message, Vector, Vectors
from deployments.gateway.items import messages

_TAIL_ITEMS = 64
"""Newest items that are looked at; the budget holds fewer."""

SUMMARY = "Summary of the conversation so far: "
EARLIER = "Said earlier in this conversation:"


class Spoken(msgspec.Struct, frozen=True):
    """A message of the conversation and where it stands in it."""

    position: int
    message: Message


@dataclass(frozen=True)
class Recall:
    """Brings a conversation back to mind."""

    limits: Limits

    async def messages(self, conversation: Conversations, conversation_id: str, vector: Vector | None) -> tuple[Message, ...]:
        """What goes before the question whose embedding is `vector`; None recalls nothing by similarity."""
        tail = await conversation.tail(conversation_id, _TAIL_ITEMS)
        recent = newest(spoken(tail), self.limits.recent_tokens)
        summary = await conversation.summary(conversation_id)
        notes: list[str] = []
        if summary:
            notes.append(SUMMARY + clip(summary.text, self.limits.summary_tokens))
        if vector is not None and recent and recent[0].position > 0:
            earlier = await self._similar(conversation, conversation_id, vector, recent[0].position)
            if earlier:
                notes.append("\n".join([EARLIER, *(f"- {_speaker(message)}: {message.content}" for message in earlier)]))
        before = (Message("system", "\n\n".join(notes)),) if notes else ()
        return (*before, *(one.message for one in recent))

    async def _similar(self, conversation: Conversations, conversation_id: str, vector: Vector, before: int) -> list[Message]:
        """Messages from before that position that are about the same, in the order they were said, within the budget."""
        positions, vectors = await conversation.vectors(conversation_id, before, self.limits.remembered_items, len(vector))
        chosen = [positions[index] for index in nearest(vector, vectors, self.limits.recalled_items)]
        budget, kept = self.limits.recalled_tokens, list[Spoken]()
        for one in sorted(spoken(await conversation.at(conversation_id, chosen)), key=lambda one: chosen.index(one.position)):
            budget -= tokens(one.message)
            if budget < 0:
                break
            kept.append(one)
        return [one.message for one in sorted(kept, key=lambda one: one.position)]


def recalled(messages: Sequence[Message], earlier: Sequence[Message]) -> tuple[Message, ...]:
    """The messages of a turn with what was said before in its place: behind its instructions, all of which become one message."""
    lead = [message for message in messages if message.role == "system"]
    notes = [message for message in earlier if message.role == "system"]
    system = (Message("system", "\n\n".join(message.content for message in (*lead, *notes))),) if lead or notes else ()
    said = [message for message in (*earlier, *messages) if message.role != "system"]
    return (*system, *said)


def spoken(placed: Sequence[Placed]) -> list[Spoken]:
    """The messages with words among some items, without their images; what functions gave is none of them."""
    said = [(one.position, message) for one in placed for message in messages([one.item.body])]
    heard = [(position, message) for position, message in said if message.role != "tool" and message.content.strip()]
    return [Spoken(position, msgspec.structs.replace(message, images=())) for position, message in heard]


def newest(said: Sequence[Spoken], budget_tokens: int) -> list[Spoken]:
    """The newest messages that fit, at least the last one, beginning with a user's where there is one."""
    first = len(said)
    for one in reversed(said):
        budget_tokens -= tokens(one.message)
        if budget_tokens < 0 and first < len(said):
            break
        first -= 1
    recent = list(said[first:])
    while len(recent) > 1 and recent[0].message.role == "assistant" and first > 0:
        recent.pop(0)
    return recent


def nearest(vector: Vector, vectors: Vectors, count: int) -> list[int]:
    """The rows most like a vector, best first; shapes (d,) and (n, d)."""
    if not len(vectors):
        return []
    return [int(index) for index in np.argsort(-(vectors @ vector), kind="stable")[:count]]


def tokens(message: Message) -> int:
    """How many tokens a message takes, roughly."""
    return estimate(message.content) + 4


def clip(text: str, budget_tokens: int) -> str:
    """The beginning of a text, within a budget."""
    return text[: budget_tokens * CHARS_PER_TOKEN]


def _speaker(message: Message) -> str:
    return "the user" if message.role == "user" else "you"
