"""The tools of a response as they look on the wire: functions of the caller's, `file_search`, and those that headrace runs."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from pydantic import Field

from deployments.core.errors import InvalidRequest, Unsupported
from deployments.core.tool_settings import Tools
from deployments.core.tools import Tool, Toolbox
from deployments.core.types import Search
from deployments.gateway.filters import Filters, parse
from deployments.gateway.items import encoded
from deployments.gateway.schemas import MAX_TOOLS
from deployments.gateway.served import Served, choice, echo, selection
from deployments.gateway.structured import parameters
from deployments.gateway.wire import MAX_DESCRIPTION_CHARS, Part, Words

Name = Annotated[str, Field(min_length=1, max_length=64)]
MAX_ECHO_SCHEMA_BYTES = 16 << 10
"""A schema is repeated in several events, each of which readers built on aiohttp take up to 64 KiB."""
_MAX_FILTER_BYTES = 8 << 10
"""Filters of a tool: the response that repeats them has to fit into one event."""


class Ranking(Part):
    """How results of a search are ranked and cut."""

    ranker: Literal["auto", "default-2024-11-15"] | None = None
    score_threshold: float | None = Field(default=None, ge=0, le=1)
    hybrid_search: Annotated[dict[str, Any], Field(json_schema_extra={"maxProperties": 0})] | None = None


class ToolSpec(Served):
    """A tool: a function of the caller's, `file_search`, or `mcp`, tools that headrace runs."""

    type: str = Field(max_length=64, json_schema_extra={"enum": ["function", "file_search", "mcp"]})
    name: str | None = Field(None, pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: Annotated[Words, Field(max_length=MAX_DESCRIPTION_CHARS)] | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    vector_store_ids: list[Name] | None = Field(None, max_length=16)
    filters: Filters | None = None
    max_num_results: int | None = Field(None, ge=1, le=50)
    ranking_options: Ranking | None = None


def searched(tools: Sequence[ToolSpec], wanted: str | dict[str, Any] | None, store_id: str | None) -> Search | None:
    """The search that the tools ask for, in the one vector store that was found to be the caller's."""
    asked: Search | None = None
    for place, tool in enumerate(tools):
        if tool.type not in ("function", "file_search", "mcp"):
            raise Unsupported(f"tools of type '{tool.type}' are not supported", param=f"tools[{place}].type", code="unsupported_value")
        if tool.type == "function" and not tool.name:
            raise InvalidRequest("a function has a name", param=f"tools[{place}].name", code="missing_required_parameter")
        parameters(tool.parameters, f"tools[{place}].parameters", tool.strict)
        if tool.type == "file_search":
            if asked:
                raise Unsupported("one file_search is supported", param=f"tools[{place}]", code="unsupported_value")
            asked = _search(tool, place, store_id)
    return None if wanted == "none" else asked


def boxed(
    tools: Sequence[ToolSpec], wanted: str | dict[str, Any] | None, settings: Tools, parallel: bool | None, most_calls: int | None
) -> Toolbox:
    """What the model may call, of what a request names; raises InvalidRequest or Unsupported."""
    functions = tuple(_tool(tool) for tool in tools if tool.type == "function")
    named = [(place, tool) for place, tool in enumerate(tools) if tool.type == "mcp"]
    served = tuple(selection(tool, f"tools[{place}]", settings) for place, tool in named)
    names, searches = {tool.name for tool in functions}, any(tool.type == "file_search" for tool in tools)
    asked = wanted or "auto"
    if isinstance(asked, dict) and asked.get("type") == "allowed_tools":
        functions, asked = _allowed(asked, functions), asked.get("mode")
    if isinstance(asked, dict):
        kind, name = asked.get("type"), asked.get("name")
        if kind == "file_search" and searches:
            asked = "auto"  # it is searched in any case
        elif kind == "mcp":
            asked = choice(asked, served)
        elif kind != "function" or name not in names:
            raise Unsupported("tool_choice names a function among the tools", param="tool_choice", code="unsupported_value")
        else:
            asked = f"={name}"
    elif asked not in ("auto", "none", "required"):
        raise Unsupported("tool_choice is auto, none, required or a function", param="tool_choice", code="unsupported_value")
    if asked == "required" and not functions and not served and not searches:
        raise InvalidRequest("tool_choice 'required' needs tools", param="tool_choice", code="invalid_value")
    if asked == "none":
        served = ()
    if not functions and not served:
        return Toolbox()
    return Toolbox(functions, asked, parallel, served, most_calls)


def chosen(wanted: str | dict[str, Any] | None) -> str | dict[str, Any]:
    """The choice as the response repeats it."""
    if not isinstance(wanted, dict):
        return wanted or "auto"
    kept = ("type", "name", "server_label", "mode", "tools")
    shown = {name: wanted[name] for name in kept if name in wanted}
    return shown if len(encoded(shown, "tool_choice")) <= MAX_ECHO_SCHEMA_BYTES else "auto"


def echoed(tool: ToolSpec) -> dict[str, Any]:
    """A tool as the response repeats it."""
    if tool.type == "mcp":
        return echo(tool)
    if tool.type == "function":
        fields: Mapping[str, Any] = {
            "name": tool.name,
            "description": tool.description,
            "parameters": tool.parameters,
            "strict": tool.strict,
        }
        return {"type": "function", **fields}
    found = {"vector_store_ids": tool.vector_store_ids, "max_num_results": tool.max_num_results or 20}
    ranking = tool.ranking_options or Ranking()
    options = {"ranker": ranking.ranker or "auto", "score_threshold": ranking.score_threshold or 0.0}
    return {"type": "file_search", **found, "filters": tool.filters, "ranking_options": options}


def _search(tool: ToolSpec, place: int, store_id: str | None) -> Search:
    if not tool.vector_store_ids:
        raise InvalidRequest("vector_store_ids is required", param=f"tools[{place}].vector_store_ids", code="missing_required_parameter")
    if tool.vector_store_ids != [store_id]:
        message = "one vector store of your own can be searched; GET /v1/vector_stores lists them"
        raise Unsupported(message, param=f"tools[{place}].vector_store_ids")
    param = f"tools[{place}].filters"
    if tool.filters is not None and len(encoded(tool.filters, param)) > _MAX_FILTER_BYTES:
        raise InvalidRequest(f"the filters of a tool have at most {_MAX_FILTER_BYTES} bytes", param=param, code="invalid_value")
    filters = None if tool.filters is None else parse(tool.filters, param)
    ranking = tool.ranking_options or Ranking()
    if ranking.hybrid_search:
        raise Unsupported("weights are not supported yet", param=f"tools[{place}].ranking_options.hybrid_search")
    return Search(tool.max_num_results or 20, ranking.score_threshold or 0.0, filters)


def _tool(tool: ToolSpec) -> Tool:
    parameters = None if tool.parameters is None else msgspec.json.encode(tool.parameters)
    return Tool(tool.name or "", tool.description, parameters, tool.strict)


def _allowed(chosen: dict[str, Any], tools: tuple[Tool, ...]) -> tuple[Tool, ...]:
    """The functions that `allowed_tools` leaves."""
    listed, names = chosen.get("tools"), {tool.name for tool in tools}
    if not isinstance(listed, list) or len(listed) > MAX_TOOLS or chosen.get("mode") not in ("auto", "required"):
        raise InvalidRequest("allowed_tools has a mode and tools", param="tool_choice", code="invalid_value")
    kept = {one.get("name") for one in listed if isinstance(one, dict) and one.get("type") == "function"}
    if len(kept) < len(listed) or not kept <= names:
        raise Unsupported("allowed_tools names functions among the tools", param="tool_choice", code="unsupported_value")
    return tuple(tool for tool in tools if tool.name in kept)
