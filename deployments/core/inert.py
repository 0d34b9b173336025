"""Text of others as it may stand in a prompt: it plays no role, and looks like nothing of ours. Pure."""

import re
from typing import Any, cast

OURS = re.compile(r"\s*(?:\[\d+\]|Sources\s*:|Question\s*:)", re.IGNORECASE)
"""How lines of our own templates begin; such a line of somebody else is quoted with `> `."""
MARKER = re.compile(
    r"[<\uff1c](?=[|\uff5c]|/?s>|(?:start|end)_of_turn>|<?/?SYS>|(?:bos|eos|pad|unk)>)|\[(?=/?INST\])",
    re.IGNORECASE,
)
"""Where control tokens of the usual chat templates are torn apart by a space."""


def unmarked(text: str) -> str:
    """The text without a control token of a chat template in it."""
    return MARKER.sub(lambda found: f"{found[0]} ", text)


def unmarked_json(value: Any) -> Any:
    """A JSON value without a control token in any of its strings, names included; raises RecursionError for one that is too deep."""
    match value:
        case str():
            return unmarked(value)
        case list():
            return [unmarked_json(one) for one in cast("list[Any]", value)]
        case dict():
            return {unmarked(name): unmarked_json(one) for name, one in cast("dict[str, Any]", value).items()}
        case _:
            return value


def inert(text: str) -> str:
    """Text of a document or a variable: it can neither end its place in the prompt, nor begin another, nor play a role."""
    lines = (f"> {line.lstrip()}" if OURS.match(line) else line for line in text.strip().splitlines())
    return unmarked("\n".join(lines))
