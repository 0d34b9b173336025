"""The settings of the tools that headrace runs: Python callables, HTTP calls, and MCP servers."""

from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

import msgspec
from pydantic import Field, SecretStr, model_validator

from deployments.core.schemas import validator
from deployments.core.sections import Section
from deployments.core.tools import OWN, TOOL_SCOPE, Effect

_ToolName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
_Label = Annotated[str, Field(pattern=r"^[a-zA-Z0-9-]{1,24}$")]
_Scope = Annotated[str, Field(pattern=TOOL_SCOPE)]


class Bounded(Section):
    """What every tool has: who may use it, what it does, and how long and how much."""

    effect: Effect = Field(default="egress", description="Whether it only reads, writes, or sends something to somebody outside.")
    scopes: tuple[_Scope, ...] = Field(default=("tools:use",), min_length=1, description="Scopes a caller needs, each `tools:…`.")
    timeout_s: float = Field(default=10, gt=0, le=300, description="How long one call may take.")
    output_bytes: int = Field(default=8192, ge=16, le=16384, description="Its result is cut there.")


class Described(Bounded):
    """A tool with a name and a schema of its own."""

    name: _ToolName = Field(description="What the model calls it.")
    description: str = Field(max_length=1024, description="What the model is told of it.")
    parameters: dict[str, Any] = Field(description="JSON schema of its arguments: an object with `additionalProperties: false`.")

    @model_validator(mode="after")
    def _closed(self) -> Self:
        if self.parameters.get("type") != "object" or self.parameters.get("additionalProperties") is not False:
            raise ValueError(f"tools: the parameters of {self.name!r} are an object with additionalProperties false")
        validator(msgspec.json.encode(self.parameters))
        return self


class PythonTool(Described):
    """A function, called with the arguments by name in a process of its own; what it returns is the result."""

    function: str = Field(pattern=r"^[a-zA-Z_][\w.]*:[a-zA-Z_]\w*$", description="The function, as `module:name`.")
    memory_bytes: int = Field(default=512 << 20, ge=64 << 20, description="Address space of its process.")
    network: bool = Field(default=False, description="Whether it may use the network; else it has a namespace without one.")


class HttpTool(Described):
    """One URL, called with the arguments as its query (GET) or as a JSON body."""

    url: str = Field(pattern=r"^https?://[^\s@]+$", description="Where it is; nothing of it comes from the model.")
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] = Field(default="POST", description="How it is called.")
    headers: dict[str, str] = Field(default={}, description="Headers that are no secret.")
    secret_headers: dict[str, str] = Field(default={}, description="Headers with the names of their values in `tools.secrets`.")


class McpServer(Bounded):
    """An MCP server over streamable HTTP; its tools are known as `label__name`."""

    label: _Label = Field(description="What requests call it.")
    url: str = Field(pattern=r"^https?://[^\s@]+$", description="Its endpoint.")
    secret_headers: dict[str, str] = Field(default={}, description="Headers with the names of their values in `tools.secrets`.")
    effects: dict[str, Effect] = Field(default={}, description="What single tools do, where it is not `effect`; no server is believed.")
    only: tuple[str, ...] | None = Field(default=None, description="Its tools that may be used; none: all of them.")
    trusted: bool = Field(default=False, description="Whether what it says of its tools is as good as the operator's own words.")
    refresh_s: float = Field(default=300, ge=1, description="How long the list of its tools is used.")


class Tools(Section):
    """Tools that headrace runs for a model; docs/tools.md says what each field of a tool means."""

    python: tuple[PythonTool, ...] = Field(default=(), description="Functions, each called in a process of its own.")
    http: tuple[HttpTool, ...] = Field(default=(), description="URLs that are called.")
    mcp: tuple[McpServer, ...] = Field(default=(), description="MCP servers (streamable HTTP).")
    secrets: dict[str, SecretStr] = Field(default={}, description="Values of secret headers, by name. Keep them in the environment.")
    hosts: tuple[str, ...] = Field(default=(), description="Hosts of the own network that tools may call; others must be public.")
    rounds: int = Field(default=6, ge=1, le=32, description="Times the model is asked within one answer.")
    calls: int = Field(default=16, ge=1, le=64, description="Calls of tools within one answer.")
    processes: int = Field(default=8, ge=1, le=64, description="Processes of Python tools that one replica runs side by side.")
    at_once: int = Field(default=4, ge=1, le=16, description="Calls of one answer that run side by side.")
    turn_bytes: int = Field(default=32_000, ge=1024, le=40_000, description="Arguments and results of all calls of one answer.")
    approval_s: int = Field(default=900, ge=10, le=86_400, description="How long a call that was asked for may be approved.")
    after_untrusted: tuple[Literal["write", "egress"], ...] = Field(
        default=(), description="What tools may do once documents, results of tools or earlier answers are in the context."
    )

    @property
    def labels(self) -> frozenset[str]:
        """Every label that requests may name."""
        own = {OWN} if self.python or self.http else set[str]()
        return frozenset(own | {server.label for server in self.mcp})

    @model_validator(mode="after")
    def _sound(self) -> Self:
        names = [tool.name for tool in (*self.python, *self.http)]
        labels = [OWN, *(server.label for server in self.mcp)]
        if len(set(names)) < len(names) or len(set(labels)) < len(labels):
            raise ValueError(f"tools: each tool has a name of its own, and each server a label other than {OWN!r}")
        if any(name.startswith(f"{server.label}__") for name in names for server in self.mcp):
            raise ValueError("tools: no name of a tool begins as those of an MCP server do, with its label and `__`")
        for caller in (*self.http, *self.mcp):
            if unknown := set(caller.secret_headers.values()) - set(self.secrets):
                raise ValueError(f"tools.secrets has no {unknown.pop()!r}")
            if caller.secret_headers and urlsplit(caller.url).scheme == "http" and urlsplit(caller.url).hostname not in self.hosts:
                raise ValueError(f"tools: a secret goes over https only: {caller.url}")
        return self

    def headers(self, caller: HttpTool | McpServer) -> dict[str, str]:
        """The secret headers of a tool or server."""
        return {header: self.secrets[name].get_secret_value() for header, name in caller.secret_headers.items()}
