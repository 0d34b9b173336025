"""The prompt by which what was said in a conversation is put in short. Pure."""

from collections.abc import Sequence

from deployments.core.inert import unmarked
from deployments.core.types import Message


def summarise(before: str, said: Sequence[Message], instruction: str) -> tuple[Message, ...]:
    """The messages for the backend; `before` is the summary so far, which the new one takes in."""
    lines = [f"{message.role}: {unmarked(message.content)}" for message in said]
    known = [f"Summary so far: {unmarked(before)}"] if before else []
    return (Message("system", instruction), Message("user", "\n".join([*known, *lines])))
