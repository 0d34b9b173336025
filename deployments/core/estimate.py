"""How long texts are in tokens, roughly, where no tokenizer of the model is at hand."""

from collections.abc import Iterable

from deployments.core.images import IMAGE_TOKENS
from deployments.core.types import Message

CHARS_PER_TOKEN = 4
"""Characters of English text that make one token."""


def estimate(text: str) -> int:
    """How many tokens a text takes, roughly."""
    return len(text) // CHARS_PER_TOKEN


def length(messages: Iterable[Message]) -> int:
    """How many tokens messages take with their calls and images, roughly."""
    return sum(
        estimate(one.content) + sum(estimate(call.arguments) for call in one.calls) + IMAGE_TOKENS * len(one.images) for one in messages
    )
