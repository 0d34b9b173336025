"""Tools that headrace runs, as requests name them: OpenAI's `mcp` tool, with a label that the settings know in place of an address."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from deployments.core.errors import InvalidRequest, Unsupported
from deployments.core.tool_settings import Tools
from deployments.core.tools import OWN, Effect, Selection, offered
from deployments.gateway.wire import Part, Text

_MOST_NAMED = 128
_Names = Annotated[list[Text], Field(max_length=_MOST_NAMED, fail_fast=True)]


class Filter(Part):
    """Some tools of a label."""

    tool_names: _Names | None = None
    read_only: bool | None = None


class Served(Part):
    """What a tool of the type `mcp` has; where it is, and how it is reached, is for the settings to say."""

    server_label: Text | None = None
    allowed_tools: _Names | Filter | None = None
    require_approval: Literal["always", "never"] | None = None
    server_url: Text | None = None
    connector_id: Text | None = None
    authorization: Text | None = None
    headers: dict[str, Any] | None = None


def selection(tool: Served, param: str, tools: Tools) -> Selection:
    """What a request allows by a tool at `param`; raises InvalidRequest or Unsupported."""
    if not tools.labels:
        raise Unsupported("no tools of the type 'mcp' are configured", param=f"{param}.type", code="unsupported_value")
    for name in ("server_url", "connector_id", "authorization", "headers"):
        if getattr(tool, name) is not None:
            message = "servers are configured, not named by requests; name one by its server_label"
            raise Unsupported(message, param=f"{param}.{name}")
    label = tool.server_label
    if not label or label not in tools.labels:
        raise InvalidRequest("there are no tools of that label", param=f"{param}.server_label", code="invalid_value")
    chosen = tool.allowed_tools
    names = chosen if isinstance(chosen, list) else chosen.tool_names if chosen else None
    reading = isinstance(chosen, Filter) and bool(chosen.read_only)
    known = effects(tools, label)
    if known is not None and (unknown := set(names or ()) - set(known)):
        message = f"'{label}' has no tool '{unknown.pop()[:64]}'"
        raise InvalidRequest(message, param=f"{param}.allowed_tools", code="invalid_value")
    if tool.require_approval == "never" and not reading and _acts(tools, label, names):
        message = "calls that write or send need approval; 'never' goes with tools that only read"
        raise Unsupported(message, param=f"{param}.require_approval", code="unsupported_value")
    return Selection(label, None if names is None else tuple(names), reading, tool.require_approval == "always")


def choice(chosen: dict[str, Any], selections: Sequence[Selection]) -> str:
    """The one tool that a `tool_choice` of the type `mcp` names, as the model knows it; raises Unsupported."""
    label, name = chosen.get("server_label"), chosen.get("name")
    for one in selections:
        if one.label == label and isinstance(name, str) and (one.names is None or name in one.names):
            return f"={offered(one.label, name)}"
    raise Unsupported("tool_choice names a tool of a server among the tools", param="tool_choice", code="unsupported_value")


def echo(tool: Served) -> dict[str, Any]:
    """The tool as the response repeats it."""
    chosen = tool.allowed_tools
    allowed = chosen.model_dump(exclude_none=True) if isinstance(chosen, BaseModel) else chosen
    return {"type": "mcp", "server_label": tool.server_label, "allowed_tools": allowed, "require_approval": tool.require_approval}


def effects(tools: Tools, label: str) -> dict[str, Effect] | None:
    """What the tools of a label do, by name; None where only its server knows which there are."""
    return {tool.name: tool.effect for tool in (*tools.python, *tools.http)} if label == OWN else None


def _acts(tools: Tools, label: str, names: Sequence[str] | None) -> bool:
    """Whether one of some tools does more than read."""
    if (known := effects(tools, label)) is not None:
        return any(known[name] != "read" for name in (known if names is None else names))
    server = next(server for server in tools.mcp if server.label == label)
    if names is None:
        return server.effect != "read" or any(effect != "read" for effect in server.effects.values())
    return any(server.effects.get(name, server.effect) != "read" for name in names)
