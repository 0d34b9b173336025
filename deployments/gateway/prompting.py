"""What a request is answered with beside its own words: the prompt that it names, and the sides of canaries it is on."""

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from pydantic import BeforeValidator, Field

from deployments.core.choices import chosen
from deployments.core.errors import InvalidRequest, NotFound
from deployments.core.prompts import Prompt
from deployments.core.template import MAX_PLACEHOLDERS, MAX_VARIABLE_CHARS, render
from deployments.core.types import Message, Turn
from deployments.gateway.context import Context
from deployments.gateway.wire import Part, Words

MAX_ECHO_CHARS = 512
"""Variables of a response are repeated in several of its events; more of them than this are not."""


def _few(value: object) -> object:
    if isinstance(value, dict) and len(value) > MAX_PLACEHOLDERS:
        raise ValueError(f"a prompt has at most {MAX_PLACEHOLDERS} variables")
    return value


class PromptSpec(Part):
    """A prompt of the tenant's registry; without a version the current one is meant. Variables are texts."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    version: Annotated[str, Field(pattern=r"^[0-9]{1,9}$")] | None = None
    variables: Annotated[
        dict[Annotated[Words, Field(max_length=64)], Annotated[Words, Field(max_length=MAX_VARIABLE_CHARS)]], BeforeValidator(_few)
    ] = Field(default={}, max_length=MAX_PLACEHOLDERS)

    def echo(self, version: str) -> dict[str, Any]:
        """As the response repeats it."""
        small = sum(len(name) + len(value) for name, value in self.variables.items()) <= MAX_ECHO_CHARS
        return {"id": self.id, "version": version, "variables": self.variables if small else None}


async def prompted(parts: Context, turns: Sequence[Turn], spec: PromptSpec | None, user: object = None) -> list[Turn]:
    """The turns of one request with what is picked for them, all the same, and the prompt they begin with.

    `user` is whom the request names. Raises InvalidRequest naming the parameter, or ContextTooLong.
    """
    choices = parts.picker.pick(turns[0], user if isinstance(user, str) and user else None)
    if spec is None:
        return [msgspec.structs.replace(turn, choices=choices) for turn in turns] if choices else list(turns)
    version = spec.version or chosen(choices, "prompt", spec.id) or None
    if spec.version:  # who names a version takes no part in its canary
        choices = tuple(one for one in choices if (one.kind, one.subject) != ("prompt", spec.id))
    found = await _found(parts, turns[0], spec, version)
    text = render(found.template, spec.variables, parts.settings.gateway.max_input_tokens)
    return [msgspec.structs.replace(turn, choices=choices, prompt=found.name, messages=_led(text, turn.messages)) for turn in turns]


def _led(text: str, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The messages behind a prompt, which becomes one with the instructions that they begin with: some backends take one only."""
    if messages and messages[0].role == "system":
        return (Message("system", f"{text}\n\n{messages[0].content}"), *messages[1:])
    return (Message("system", text), *messages)


async def _found(parts: Context, turn: Turn, spec: PromptSpec, version: str | None) -> Prompt:
    try:
        return await parts.store.of(turn.principal).prompts.get(spec.id, version)
    except NotFound as error:
        param = "prompt.version" if spec.version else "prompt.id"
        raise InvalidRequest(error.message, param=param, code="prompt_not_found") from None


def echoed(spec: PromptSpec | None, turn: Turn) -> dict[str, Any]:
    """What the response says of its prompt."""
    return {"prompt": spec.echo(turn.prompt.rpartition("@")[2])} if spec else {}
