"""Calls of tools that headrace runs, as items and events of a response: OpenAI's `mcp_call` and `mcp_approval_request`."""

from collections.abc import Iterator
from typing import Any

import msgspec

from deployments.core.tools import Awaits, Ran
from deployments.gateway.wire import MAX_EVENT_CHARS

_Told = tuple[str, dict[str, Any]]


def call_item(delta: Ran, item_id: str) -> dict[str, Any]:
    """A call as its item begins."""
    named = {"server_label": delta.label, "name": delta.name, "arguments": "", "approval_request_id": delta.approval_id}
    return {"id": item_id, "type": "mcp_call", "status": "in_progress", **named, "output": None, "error": None}


def call_events(delta: Ran, item: dict[str, Any]) -> Iterator[_Told]:
    """What happens to it, without its place; the item changes on the way."""
    yield "response.mcp_call.in_progress", {}
    for start in range(0, len(delta.arguments), MAX_EVENT_CHARS):
        yield "response.mcp_call_arguments.delta", {"delta": delta.arguments[start : start + MAX_EVENT_CHARS]}
    item["arguments"] = delta.arguments
    yield "response.mcp_call_arguments.done", {"arguments": delta.arguments}
    if delta.error is None:
        item |= {"status": "completed", "output": delta.output}
        yield "response.mcp_call.completed", {}
    else:
        item |= {"status": "failed", "error": {"type": "mcp_tool_execution_error", "content": [{"type": "text", "text": delta.error}]}}
        yield "response.mcp_call.failed", {}


def request_item(delta: Awaits) -> dict[str, Any]:
    """A request for approval; it is whole at once, and has no status."""
    named = {"server_label": delta.label, "name": delta.name, "arguments": delta.arguments}
    return {"id": delta.id, "type": "mcp_approval_request", **named}


def broken(arguments: str) -> bool:
    """Whether the arguments of a call are no JSON: they are passed on as they are, in an item that says it is incomplete."""
    try:
        msgspec.json.decode(arguments or "{}")
    except (ValueError, RecursionError):
        return True
    return False
