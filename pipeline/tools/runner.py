"""Runs calls that the policy has let through, each within its bounds, and gives the model text: never an exception of a tool's."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from functools import partial
from os import pathsep

import msgspec

from deployments.core.errors import HeadraceError
from deployments.core.exchange import exchange
from deployments.core.fetch import Bounds, Fetcher
from deployments.core.spans import span
from deployments.core.tool_settings import HttpTool, PythonTool, Tools
from pipeline.child import die_with_parent
from pipeline.tools.mcp import Servers
from pipeline.tools.registry import Registered

_logger = logging.getLogger("headrace.tools")

CUT = " [cut]"
_JSON_FACTOR = 12
"""A character may take twelve bytes of JSON."""
_ERROR_BYTES = 4096
"""What an error of a process takes at most."""

_ENDS = partial(die_with_parent, signal.SIGKILL)


class Result(msgspec.Struct, frozen=True):
    """What a call came to: one of the two is not None."""

    output: str | None = None
    error: str | None = None


class Runner:
    """Runs calls of one process."""

    def __init__(self, settings: Tools, servers: Servers, fetcher: Fetcher):
        self._settings, self._servers, self._fetcher = settings, servers, fetcher
        self._processes = asyncio.Semaphore(settings.processes)

    async def run(self, tool: Registered, arguments: bytes) -> Result:
        """Make a call with arguments that fit the tool's schema; the result is cut to the tool's bound."""
        about = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": tool.name}
        try:
            with span(f"execute_tool {tool.name}", about):
                async with asyncio.timeout(tool.timeout_s):
                    result = await self._run(tool, arguments)
        except TimeoutError:
            return Result(error=f"it took longer than {tool.timeout_s:g} s")
        except HeadraceError as error:
            return Result(error=error.message)
        except OSError as error:
            _logger.warning("the tool %s could not be run: %s", tool.name, error)
            return Result(error="it could not be run")
        if result.error is not None:
            return Result(error=clip(result.error, tool.output_bytes))
        return Result(output=clip(result.output or "", tool.output_bytes))

    async def _run(self, tool: Registered, arguments: bytes) -> Result:
        match tool.source:
            case PythonTool() as source:
                async with self._processes:
                    return await _python(source, arguments)
            case HttpTool() as source:
                return await self._http(source, arguments)
            case source:
                output, failed = await self._servers.call(source, tool.name, msgspec.json.decode(arguments))
                return Result(error=output) if failed else Result(output=output)

    async def _http(self, tool: HttpTool, arguments: bytes) -> Result:
        headers = {**tool.headers, **self._settings.headers(tool)}
        bounds = Bounds(tool.timeout_s, tool.output_bytes + 1)  # so that it is seen to be cut
        if tool.method == "GET":
            params = {name: _text(value) for name, value in msgspec.json.decode(arguments).items()}
            got = await self._fetcher.fetch(tool.url, bounds, headers=headers, params=params)
        else:
            headers = {"content-type": "application/json", **headers}
            got = await self._fetcher.fetch(tool.url, bounds, method=tool.method, headers=headers, body=arguments)
        text = got.body.decode(errors="replace")
        return Result(output=text) if got.status < 400 else Result(error=f"status {got.status}: {text}")


async def _python(tool: PythonTool, arguments: bytes) -> Result:
    """A call in a process of its own, which is gone afterwards."""
    most = _JSON_FACTOR * (tool.output_bytes + 1) + _ERROR_BYTES
    async with _process(tool) as process:
        said = await exchange(process, arguments, most)
    try:
        result = msgspec.json.decode(said, type=Result)
    except (ValueError, RecursionError):
        result = Result()
    return result if result != Result() else Result(error="it broke off, or said or needed more than it may")


@contextlib.asynccontextmanager
async def _process(tool: PythonTool) -> AsyncIterator[Process]:
    # It gets our import path, and nothing else of our environment: there are secrets in that.
    bounds = (str(tool.timeout_s), str(tool.memory_bytes), str(tool.output_bytes + 1), "network" if tool.network else "none")
    words = (sys.executable, "-m", "pipeline.tools.process", tool.function, *bounds)
    environment = {"PYTHONPATH": pathsep.join(sys.path), "PYTHONUTF8": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    process = await asyncio.create_subprocess_exec(
        *words, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env=environment, start_new_session=True, preexec_fn=_ENDS
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):  # with all that it has started: root may start processes whatever the bounds say
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def clip(text: str, most_bytes: int) -> str:
    """The beginning of a text that takes so many bytes of UTF-8, at most; half of a surrogate pair becomes a question mark."""
    whole = text.encode(errors="replace")
    if len(whole) <= most_bytes:
        return whole.decode()
    return whole[: most_bytes - len(CUT)].decode(errors="ignore") + CUT if most_bytes >= len(CUT) else ""


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
