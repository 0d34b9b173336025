"""The tools that headrace can run: those the settings name, and what MCP servers list."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from deployments.core.errors import InvalidRequest
from deployments.core.tool_settings import HttpTool, McpServer, PythonTool, Tools
from deployments.core.tools import OWN, Effect, Selection, Tool, offered


@dataclass(frozen=True)
class Registered:
    """A tool: what the model is told of it, who may use it, what it does, its bounds, and what runs it."""

    label: str
    name: str
    description: str
    schema: bytes
    effect: Effect
    scopes: frozenset[str]
    timeout_s: float
    output_bytes: int
    source: PythonTool | HttpTool | McpServer

    @property
    def vouched(self) -> bool:
        """Whether the operator vouches for what the model is told of it."""
        return not isinstance(self.source, McpServer) or self.source.trusted

    @property
    def offered(self) -> str:
        """What the model calls it."""
        return offered(self.label, self.name)

    @property
    def tool(self) -> Tool:
        """As the model is told of it."""
        return Tool(self.offered, self.description, self.schema, True, ours=True)


@dataclass(frozen=True)
class Allowed:
    """The tools that one turn allows, by what the model calls them; calls of `asking` ones need approval, whatever they do."""

    tools: Mapping[str, Registered]
    asking: frozenset[str] = frozenset()

    @property
    def vouched(self) -> bool:
        """Whether the operator vouches for what the model is told of all of them."""
        return all(tool.vouched for tool in self.tools.values())

    def named(self, label: str, name: str) -> Registered | None:
        """The tool of that name, where it is allowed."""
        return self.tools.get(offered(label, name))


def registered(settings: Tools) -> tuple[Registered, ...]:
    """The tools that the settings name themselves."""
    return tuple(_own(tool) for tool in (*settings.python, *settings.http))


def allowed(tools: Iterable[Registered], selections: Sequence[Selection]) -> Allowed:
    """Those of some tools that a request allows; raises InvalidRequest for a name that is not among them."""
    chosen: dict[str, Registered] = {}
    asking: set[str] = set()
    known = list(tools)
    for selection in selections:
        mine = {tool.name: tool for tool in known if tool.label == selection.label}
        for name in mine if selection.names is None else selection.names:
            if name not in mine:
                raise InvalidRequest(f"'{selection.label}' has no tool '{name[:64]}'", param="tools", code="invalid_value")
            tool = mine[name]
            if selection.reading and tool.effect != "read":
                continue
            chosen[tool.offered] = tool
            if selection.asking:
                asking.add(tool.offered)
    return Allowed(chosen, frozenset(asking))


def _own(tool: PythonTool | HttpTool) -> Registered:
    schema = msgspec.json.encode(tool.parameters)
    scopes = frozenset(tool.scopes)
    return Registered(OWN, tool.name, tool.description, schema, tool.effect, scopes, tool.timeout_s, tool.output_bytes, tool)
