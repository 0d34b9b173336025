"""Decides which calls of tools are made: by code, from facts, whatever the model was talked into. Pure.

A call is made where its tool is allowed by the request, the caller holds its scopes, the arguments fit its schema, and, for what writes
or sends, the caller has approved of these very arguments. What writes or sends is off once something untrusted is in the context.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import jsonschema_rs
import msgspec

from deployments.core.schemas import validator
from deployments.core.tools import Effect, Tool
from deployments.core.types import Message
from pipeline.tools.registry import Allowed, Registered

Why = Literal["not_allowed", "missing_scope", "after_untrusted", "invalid_arguments", "refused", "not_approved", "too_many", "too_long"]
"""Why a call is not made."""

MAX_ARGUMENTS_CHARS = 8192
_MAX_WRONG_CHARS = 200

_canonical = msgspec.json.Encoder(order="deterministic").encode


@dataclass(frozen=True)
class Standing:
    """What a turn may do at this moment: its tools, the scopes its caller holds, and whether the context holds what nobody vouches for."""

    allowed: Allowed
    scopes: frozenset[str]
    untrusted: bool
    after_untrusted: frozenset[Effect]

    def usable(self, tool: Registered) -> bool:
        """Whether a tool is offered to the model at all."""
        return tool.scopes <= self.scopes and (not self.untrusted or tool.effect == "read" or tool.effect in self.after_untrusted)

    def offers(self) -> tuple[Tool, ...]:
        """The tools that the model is told of."""
        return tuple(tool.tool for tool in self.allowed.tools.values() if self.usable(tool))


@dataclass(frozen=True)
class Run:
    """The call is made, with these arguments, encoded."""

    tool: Registered
    arguments: bytes


@dataclass(frozen=True)
class Ask:
    """The call is made once the caller has approved of these arguments, encoded."""

    tool: Registered
    arguments: bytes


@dataclass(frozen=True)
class Deny:
    """The call is not made; `message` is for the model."""

    why: Why
    message: str


def decide(name: str, arguments: str, standing: Standing, *, approved: bool = False) -> Run | Ask | Deny:
    """What becomes of a call of the tool that the model calls `name`, with `arguments` in JSON.

    `approved` says that the caller approved of exactly these arguments: what was in the context when it was asked counts no more.
    """
    tool = standing.allowed.tools.get(name)
    if tool is None:
        return Deny("not_allowed", "there is no such tool in this conversation")
    if not tool.scopes <= standing.scopes:
        return Deny("missing_scope", "the caller may not use this tool")
    if not approved and not standing.usable(tool):
        return Deny("after_untrusted", "this tool is off once documents or results of tools have been read")
    if len(arguments) > MAX_ARGUMENTS_CHARS:
        return Deny("too_long", f"arguments have at most {MAX_ARGUMENTS_CHARS} characters")
    try:
        given = msgspec.json.decode(arguments or "{}")
        validator(tool.schema).validate(given)
    except jsonschema_rs.ValidationError as error:
        return Deny("invalid_arguments", f"the arguments do not fit the schema: {error.message}"[:_MAX_WRONG_CHARS])
    except (ValueError, RecursionError):
        return Deny("invalid_arguments", "the arguments are not JSON")
    if not approved and (tool.effect != "read" or name in standing.allowed.asking):
        return Ask(tool, _canonical(given))
    return Run(tool, _canonical(given))


def untrusted(messages: Sequence[Message]) -> bool:
    """Whether a context holds what neither the caller nor the operator said: results, or earlier answers, which may repeat documents."""
    return any(message.role in ("assistant", "tool") for message in messages)
