"""Puts the prompt of a turn together: who the model is, the passages, the conversation. Pure.

What a passage says is quoted, never obeyed by the template: no line of it looks like one of ours, and no role marker survives in it.
"""

from collections.abc import Sequence

import msgspec

from deployments.core.inert import inert, unmarked, unmarked_json
from deployments.core.types import Message, Passage, ToolCall


def compose(messages: Sequence[Message], passages: Sequence[Passage], instruction: str) -> tuple[Message, ...]:
    """The messages for the backend, in which no text plays a role but its own; without an instruction, those of the turn."""
    said = [_plain(message) for message in messages]
    if not instruction:
        return tuple(said)
    own = [message.content for message in said if message.role == "system"]
    rest = [message for message in said if message.role != "system"]
    asked = next((place for place in reversed(range(len(rest))) if rest[place].role == "user"), None)
    if passages and asked is not None:
        rest[asked] = Message("user", _grounded(rest[asked].content, passages), images=rest[asked].images)
    return (Message("system", "\n\n".join([instruction, *own])), *rest)


def _plain(message: Message) -> Message:
    text, calls = unmarked(message.content), tuple(_plain_call(call) for call in message.calls)
    return msgspec.structs.replace(message, content=text, calls=calls)


def _plain_call(call: ToolCall) -> ToolCall:
    """The call with arguments that play no role either, also where a template of a prompt decodes them."""
    try:
        arguments = msgspec.json.encode(unmarked_json(msgspec.json.decode(call.arguments))).decode()
    except (ValueError, RecursionError):
        arguments = unmarked(call.arguments)
    return msgspec.structs.replace(call, arguments=arguments)


def _grounded(question: str, passages: Sequence[Passage]) -> str:
    sources = [f"[{number}] {_heading(passage)}\n{inert(passage.chunk.text)}" for number, passage in enumerate(passages, 1)]
    return "Sources:\n\n" + "\n\n".join(sources) + f"\n\nQuestion: {question}"


def _heading(passage: Passage) -> str:
    """The title path on one line."""
    return " ".join(inert(" > ".join(dict.fromkeys((passage.title, *passage.chunk.headings)))).split())
