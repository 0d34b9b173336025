"""D10: a tool's function stays within its process: no secrets, network, files or processes, and no more time or memory than it may."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from deployments.core.fetch import Fetcher
from deployments.core.tool_settings import PythonTool, Tools
from pipeline.tools.mcp import Servers
from pipeline.tools.registry import registered
from pipeline.tools.runner import CUT, Result, Runner
from tests.fakes import until

OPEN = {"type": "object", "additionalProperties": False, "properties": {name: {} for name in ("a", "b", "text", "port", "path")}}


async def call(function: str, arguments: dict[str, Any] | None = None, **fields: Any) -> Result:
    """What a function of the odd ones comes to."""
    fields = {"timeout_s": 20, "memory_bytes": 256 << 20} | fields
    name = f"tests.pipeline.tools.odd_tools:{function}"
    settings = Tools(python=(PythonTool(name="odd", description="", parameters=OPEN, function=name, **fields),))
    runner = Runner(settings, Servers(settings), Fetcher())
    return await runner.run(registered(settings)[0], msgspec.json.encode(arguments or {}))


async def test_what_a_function_returns_is_the_result() -> None:
    assert await call("add", {"a": 1, "b": 2}) == Result(output='{"sum": 3}')
    assert await call("later", {"text": "abc"}) == Result(output="cba")


async def test_what_goes_wrong_in_a_function_is_told_and_harms_nobody(cases: Callable[[int], None]) -> None:
    assert await call("fails") == Result(error="ValueError: no such record")
    for function in ("exits", "grows", "unserialisable", "nothing"):
        result = await call(function)
        assert result.output is None, function
        assert result.error, function
    cases(5)


@pytest.mark.parametrize("function", ["sleeps", "spins"])
async def test_a_function_that_takes_too_long_is_ended(function: str) -> None:
    assert await call(function, timeout_s=0.5) == Result(error="it took longer than 0.5 s")
    assert [child for child in psutil.Process().children(recursive=True) if "pipeline.tools.process" in child.cmdline()] == []


async def test_a_function_ends_with_what_called_it_whatever_it_ignores() -> None:
    code = f"import asyncio; from {__name__} import call; asyncio.run(call('stubborn', timeout_s=300))"
    parent = psutil.Popen([sys.executable, "-c", code])
    try:
        await until(lambda: any(_deaf(child) for child in parent.children()), within_s=30)
        (child,) = parent.children()
    finally:
        parent.kill()
        parent.wait()
    await until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def _deaf(process: psutil.Process) -> bool:
    """Whether a process ignores SIGTERM."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    ignored = next(line.split()[1] for line in lines if line.startswith("SigIgn"))
    return bool(int(ignored, 16) >> (signal.SIGTERM - 1) & 1)


def test_a_function_that_nobody_waits_for_is_ended_in_time() -> None:
    words = ("tests.pipeline.tools.odd_tools:sleeps", "0.5", str(256 << 20), "100", "network")
    ended = subprocess.run([sys.executable, "-m", "pipeline.tools.process", *words], input=b"{}", check=False, timeout=30)
    assert ended.returncode == -signal.SIGALRM


async def test_a_cancelled_call_leaves_no_process_behind() -> None:
    calling = asyncio.create_task(call("sleeps"))
    async with asyncio.timeout(10):
        while not [child for child in psutil.Process().children() if "pipeline.tools.process" in child.cmdline()]:
            await asyncio.sleep(0.01)
    calling.cancel()
    await asyncio.gather(calling, return_exceptions=True)
    assert [child for child in psutil.Process().children(recursive=True) if "pipeline.tools.process" in child.cmdline()] == []


async def test_a_result_is_cut_and_a_flood_is_broken_off() -> None:
    for text in ("x" * 900, "é" * 900, "\U0001f30a" * 900):
        result = await call("later", {"text": text}, output_bytes=100)
        assert 96 <= len((result.output or "").encode()) <= 100
        assert (result.output or "").endswith(CUT)
    assert len((await call("floods", output_bytes=100)).output or "") == 100
    assert (await call("gushes", output_bytes=100)).output is None


async def test_a_function_sees_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_PEPPER", "canary")
    names = msgspec.json.decode((await call("environment")).output or "")
    assert "HEADRACE_PEPPER" not in names
    assert set(names) <= {"LC_CTYPE", "PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "PYTHONUTF8"}


async def test_a_function_that_may_use_the_network_sees_no_secrets_of_its_parent() -> None:
    if subprocess.run([shutil.which("unshare") or "false", "--user", "true"], check=False).returncode:
        pytest.skip("this kernel lets nobody leave its namespace of users")
    for network in (False, True):
        result = await call("parents", network=network)
        assert (result.error or "").startswith("PermissionError"), network


async def test_a_function_reaches_no_network_unless_it_may() -> None:
    heard: list[bytes] = []

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read())
        writer.close()

    async with await asyncio.start_server(hear, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert (await call("connects", {"port": port})).output is None
        assert heard == []
        assert await call("connects", {"port": port}, network=True) == Result(output="out")


async def test_a_function_writes_no_files(tmp_path: Path) -> None:
    assert (await call("writes", {"path": str(tmp_path / "x")})).output is None
    assert not (tmp_path / "x").exists() or (tmp_path / "x").stat().st_size == 0


async def test_what_a_function_starts_ends_with_it() -> None:
    result = await call("leaves")
    if os.getuid():
        assert result.output is None  # it can not even start one
    else:  # root may start processes, whatever the bounds say
        left = int(result.output or "")
        await until(lambda: not psutil.pid_exists(left) or psutil.Process(left).status() == psutil.STATUS_ZOMBIE)
