"""Puts the prompt of a turn together: who the model is, the passages, the conversation. Pure."""

from collections.abc import Sequence

from deployments.core.types import Message, Passage

GROUNDED = (
    "You answer questions from the numbered sources the user gives you. Use only what the sources say, in full sentences, "
    "and stay close to their wording. If they do not hold the answer, say that you could not find it."
)
"""For a turn with passages."""

NOTHING_FOUND = (
    "You answer briefly. No document of the user's collection speaks about the question, so say that you found nothing in the "
    "documents; add what you know yourself only if you are sure."
)
"""For a turn that searched and found nothing relevant."""


def compose(messages: Sequence[Message], passages: Sequence[Passage], searched: bool) -> tuple[Message, ...]:
    """The messages for the backend; a turn that did not search is passed through as it is."""
    if not searched:
        return tuple(messages)
    instruction = GROUNDED if passages else NOTHING_FOUND
    own = [message.content for message in messages if message.role == "system"]
    rest = [message for message in messages if message.role != "system"]
    asked = next((place for place in reversed(range(len(rest))) if rest[place].role == "user"), None)
    if passages and asked is not None:
        rest[asked] = Message("user", _grounded(rest[asked].content, passages))
    return (Message("system", "\n\n".join([instruction, *own])), *rest)


def _grounded(question: str, passages: Sequence[Passage]) -> str:
    sources = [f"[{number}] {_heading(passage)}\n{passage.chunk.text.strip()}" for number, passage in enumerate(passages, 1)]
    return "Sources:\n\n" + "\n\n".join(sources) + f"\n\nQuestion: {question}"


def _heading(passage: Passage) -> str:
    return " > ".join(dict.fromkeys((passage.title, *passage.chunk.headings)))
