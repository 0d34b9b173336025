"""The prompt by which what was said in a conversation is put in short. Pure."""

from collections.abc import Sequence

from deployments.core.types import Message

INSTRUCTION = (
    "Sum up the conversation below in a few sentences. Keep names, numbers, decisions and what the user said about themselves. "
    "Write only the summary."
)


def summarise(before: str, said: Sequence[Message]) -> tuple[Message, ...]:
    """The messages for the backend; `before` is the summary so far, which the new one takes in."""
    lines = [f"{message.role}: {message.content}" for message in said]
    known = [f"Summary so far: {before}"] if before else []
    return (Message("system", INSTRUCTION), Message("user", "\n".join([*known, *lines])))
