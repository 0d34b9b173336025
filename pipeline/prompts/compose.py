"""Puts the prompt of a turn together: who the model is, the passages, the conversation. Pure.

What a passage says is quoted, never obeyed by the template: no line of it looks like one of ours, and no role marker survives in it.
"""

import re
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


OURS = re.compile(r"\s*(?:\[\d+\]|Sources\s*:|Question\s*:)", re.IGNORECASE)
"""How lines of the template begin; such a line of a passage is quoted with `> `."""
MARKER = re.compile(
    r"[<\uff1c](?=[|\uff5c]|/?s>|(?:start|end)_of_turn>|<?/?SYS>|(?:bos|eos|pad|unk)>)|\[(?=/?INST\])",
    re.IGNORECASE,
)
"""Where control tokens of the usual chat templates are torn apart by a space."""


def compose(messages: Sequence[Message], passages: Sequence[Passage], searched: bool) -> tuple[Message, ...]:
    """The messages for the backend; a turn that did not search is passed through as it is."""
    if not searched:
        return tuple(messages)
    instruction = GROUNDED if passages else NOTHING_FOUND
    own = [message.content for message in messages if message.role == "system"]
    rest = [message for message in messages if message.role != "system"]
    asked = next((place for place in reversed(range(len(rest))) if rest[place].role == "user"), None)
    if passages and asked is not None:
        rest[asked] = Message("user", _grounded(rest[asked].content, passages), images=rest[asked].images)
    return (Message("system", "\n\n".join([instruction, *own])), *rest)


def inert(text: str) -> str:
    """Text of a document as it may stand in a prompt: it can neither end its source, nor begin another, nor play a role."""
    lines = (f"> {line.lstrip()}" if OURS.match(line) else line for line in text.strip().splitlines())
    return MARKER.sub(lambda found: f"{found[0]} ", "\n".join(lines))


def _grounded(question: str, passages: Sequence[Passage]) -> str:
    sources = [f"[{number}] {_heading(passage)}\n{inert(passage.chunk.text)}" for number, passage in enumerate(passages, 1)]
    return "Sources:\n\n" + "\n\n".join(sources) + f"\n\nQuestion: {question}"


def _heading(passage: Passage) -> str:
    """The title path on one line."""
    return " ".join(inert(" > ".join(dict.fromkeys((passage.title, *passage.chunk.headings)))).split())
