"""What a request is answered with beside its own words: the prompt that it names, and the sides of canaries it is on."""

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from pydantic import BeforeValidator, Field

from deployments.core.canaries import Canary
from deployments.core.choices import Choice, chosen
from deployments.core.config import Settings
from deployments.core.errors import ContextTooLong, InvalidRequest, NotFound
from deployments.core.models import Model
from deployments.core.prompts import BUILT_IN, Prompt
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

    `user` is whom the request names. The turns hang on each other, so that only the first is compared with others. Raises InvalidRequest
    naming the parameter, or ContextTooLong.
    """
    first = turns[0]
    model = await parts.catalogue.get(parts.store, first.model)
    named = user if isinstance(user, str) and user else None
    choices = parts.picker.pick(first, named, lambda one: _meets(one, first, spec, model, parts.settings))
    if spec is None:
        return _given(turns, choices)
    picked = None if spec.version else chosen(choices, "prompt", spec.id)
    try:
        found, text = await _rendered(parts, first, spec, spec.version or picked or None)
    except (InvalidRequest, ContextTooLong):
        if not picked:
            raise
        choices = tuple(one for one in choices if (one.kind, one.subject) != ("prompt", spec.id))
        found, text = await _rendered(parts, first, spec, None)
    led = [msgspec.structs.replace(turn, prompt=found.name, messages=_led(text, turn.messages)) for turn in turns]
    return _given(led, choices)


def _given(turns: Sequence[Turn], choices: tuple[Choice, ...]) -> list[Turn]:
    """The turns with what is picked for them; those behind the first are on no side of a canary, but get what that gets."""
    if not choices:
        return list(turns)
    alike = tuple(Choice(one.kind, one.subject, one.value) for one in choices if one.value)
    return [msgspec.structs.replace(turn, choices=alike if place else choices) for place, turn in enumerate(turns)]


def _meets(canary: Canary, turn: Turn, spec: PromptSpec | None, model: Model, settings: Settings) -> bool:
    """Whether the variant would make a difference to a turn; who names a version of a prompt takes no part in its canary."""
    if canary.kind == "model":
        return any(one.name == canary.value for one in model.upstreams(settings.generator.upstreams))
    if canary.kind == "prompt" and canary.subject not in BUILT_IN:
        return bool(spec and spec.id == canary.subject and not spec.version)
    return bool(turn.store_id) and not (canary.subject == "limit" and turn.search)


async def _rendered(parts: Context, turn: Turn, spec: PromptSpec, version: str | None) -> tuple[Prompt, str]:
    found = await _found(parts, turn, spec, version)
    return found, render(found.template, spec.variables, parts.settings.gateway.max_input_tokens)


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
