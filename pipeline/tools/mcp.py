"""Tools of MCP servers over streamable HTTP: listed now and then, called one connection at a time.

What a server says of its tools is a description for the model and nothing more: scopes and effects come from the settings, whatever it
claims of read-only hints. Source: Model Context Protocol, revision 2025-11-25.
"""

import asyncio
import contextlib
import logging
import math
import re
import time
from collections.abc import AsyncGenerator, Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

import httpx2
import msgspec

from deployments.core.errors import BackendFailed, HeadraceError
from deployments.core.fetch import Guarded
from deployments.core.inert import inert, unmarked_json
from deployments.core.schemas import validator
from deployments.core.tool_settings import McpServer, Tools
from deployments.core.tools import MAX_NAME_CHARS, offered
from pipeline.tools.registry import Registered

if TYPE_CHECKING:
    from mcp import Client

_logger = logging.getLogger("headrace.tools")

_MAX_TOOLS = 128
_MAX_PAGES = 8
_MAX_SCHEMA_BYTES = 16 << 10
_MAX_DESCRIPTION_CHARS = 1024
_MAX_REPLY_BYTES = 1 << 20
_AGAIN_S = 10.0
"""A server that could not be asked is asked again no sooner."""
_NAME = re.compile(rf"[a-zA-Z0-9_-]{{1,{MAX_NAME_CHARS}}}")


class Servers:
    """The MCP servers of one process; nothing is asked of one before a request names it."""

    def __init__(self, settings: Tools, clock: Callable[[], float] = time.monotonic):
        self._settings, self._clock = settings, clock
        self._listed: dict[str, tuple[float, tuple[Registered, ...] | None]] = {}

    async def tools(self, server: McpServer) -> tuple[Registered, ...]:
        """What a server offers, as far as the settings let it, or did when it could last be asked; raises BackendFailed if never."""
        until, known = self._listed.get(server.label, (-math.inf, None))
        if self._clock() >= until:
            try:
                async with asyncio.timeout(server.timeout_s), self._connected(server) as client:
                    known = tuple(await _list(client, server))
                until = self._clock() + server.refresh_s
            except (HeadraceError, TimeoutError) as error:
                _logger.warning("the MCP server %s can not be asked for its tools: %s", server.label, error or "too slow")
                until = self._clock() + _AGAIN_S
            self._listed[server.label] = until, known
        if known is None:
            raise BackendFailed(f"the MCP server '{server.label}' can not be asked for its tools")
        return known

    async def call(self, server: McpServer, name: str, arguments: dict[str, Any]) -> tuple[str, bool]:
        """The text that a call gives, and whether it failed; raises BackendFailed."""
        async with self._connected(server) as client:
            from mcp import types

            # `call_tool` would hold the reply to the server's own `outputSchema`, whose patterns may take forever in Python's `re`.
            params = types.CallToolRequestParams(name=name, arguments=arguments)
            result = await client.session.send_request(types.CallToolRequest(params=params), types.CallToolResult)
            texts = [block.text for block in result.content if block.type == "text"]
            return "\n".join(texts), result.is_error

    @contextlib.asynccontextmanager
    async def _connected(self, server: McpServer) -> AsyncGenerator["Client"]:
        """A connection of its own for each purpose: no session of one caller is another's."""
        library, transports = await asyncio.to_thread(_library)
        guarded = Guarded(self._settings.hosts, max_bytes=_MAX_REPLY_BYTES)
        headers, timeout = self._settings.headers(server), httpx2.Timeout(server.timeout_s)
        try:
            async with (
                httpx2.AsyncClient(transport=guarded, headers=headers, timeout=timeout, trust_env=False) as http,
                library.Client(
                    transports.streamable_http_client(server.url, http_client=http, max_sse_event_size=_MAX_REPLY_BYTES)
                ) as client,
            ):
                yield client
        except HeadraceError:
            raise
        except Exception as error:  # whatever kind the library, or a group of its tasks, makes of it
            _logger.warning("the MCP server %s failed: %r", server.label, error)
            raise BackendFailed("the MCP server can not be reached, or broke off") from error


def _library() -> tuple[Any, Any]:
    """The library's modules; they take 0.7 s to import, which no process needs to spend that has no such server."""
    return import_module("mcp"), import_module("mcp.client.streamable_http")


async def _list(client: "Client", server: McpServer) -> list[Registered]:
    found: list[Registered] = []
    cursor: str | None = None
    for _ in range(_MAX_PAGES):
        page = await client.list_tools(cursor=cursor)
        for tool in page.tools[: _MAX_TOOLS - len(found)]:
            if server.only is None or tool.name in server.only:
                found += _registered(server, tool.name, tool.description or "", tool.input_schema)
        cursor = page.next_cursor
        if not cursor or len(found) >= _MAX_TOOLS:
            break
    return found


def _registered(server: McpServer, name: str, description: str, schema: dict[str, Any]) -> list[Registered]:
    """A tool as we know it, with nothing in it that could play a role; none where its name or schema can not be had."""
    closed = {"additionalProperties": False, **schema} if schema.get("properties") else schema
    try:
        encoded = msgspec.json.encode(unmarked_json(closed))
        if not _NAME.fullmatch(offered(server.label, name)) or len(encoded) > _MAX_SCHEMA_BYTES:
            raise ValueError("its name or schema is too long or odd")
        validator(encoded)
    except (ValueError, RecursionError) as error:
        _logger.warning("a tool of the MCP server %s is left out: %s", server.label, error)
        return []
    told = inert(description.encode(errors="replace").decode())[:_MAX_DESCRIPTION_CHARS]
    effect = server.effects.get(name, server.effect)
    bounds = (server.timeout_s, server.output_bytes)
    return [Registered(server.label, name, told, encoded, effect, frozenset(server.scopes), *bounds, server)]
