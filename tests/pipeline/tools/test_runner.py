"""How URLs are called, and what is made of their answers."""

import asyncio
from typing import Any

import httpx2
import msgspec
import psutil
from pydantic import SecretStr
from ray import cloudpickle

from deployments.core.fetch import Fetcher
from deployments.core.tool_settings import HttpTool, PythonTool, Tools
from pipeline.tools.loop import Loop
from pipeline.tools.mcp import Servers
from pipeline.tools.registry import registered
from pipeline.tools.runner import CUT, Result, Runner, clip
from tests.fakes import until
from tests.workshop import PARAMETERS, TOOLS


async def call(answer: httpx2.Response, sent: list[httpx2.Request], **fields: Any) -> Result:
    """What a call of one URL comes to."""

    def note(request: httpx2.Request) -> httpx2.Response:
        sent.append(request)
        return answer

    named = {"name": "a", "description": "", "parameters": PARAMETERS, "url": "https://tools.test/a?key=1"} | fields
    settings = Tools(http=(HttpTool.model_validate(named),), secrets={"key": SecretStr("Bearer canary")})
    runner = Runner(settings, Servers(settings), Fetcher(transport=httpx2.MockTransport(note)))
    return await runner.run(registered(settings)[0], b'{"n":1,"to":"a b"}')


async def test_arguments_are_the_body_or_the_query() -> None:
    sent: list[httpx2.Request] = []
    fields: dict[str, Any] = {"secret_headers": {"authorization": "key"}, "headers": {"x-kind": "test"}}
    assert await call(httpx2.Response(200, content=b"done"), sent, **fields) == Result(output="done")
    assert await call(httpx2.Response(200, content=b"done"), sent, method="GET") == Result(output="done")
    posted, got = sent
    assert (posted.method, msgspec.json.decode(posted.content)) == ("POST", {"n": 1, "to": "a b"})
    assert [posted.headers[name] for name in ("authorization", "x-kind", "content-type")] == ["Bearer canary", "test", "application/json"]
    assert (got.method, dict(got.url.params)) == ("GET", {"key": "1", "n": "1", "to": "a b"})
    assert "authorization" not in got.headers


async def test_what_fails_is_an_error_for_the_model_and_redirects_are_not_followed() -> None:
    failed = await call(httpx2.Response(404, content=b"no such thing"), [])
    assert failed == Result(error="status 404: no such thing")
    assert await call(httpx2.Response(302, headers={"location": "https://elsewhere.test/"}), []) == Result(error="it led elsewhere")


async def test_a_call_that_was_made_has_gone_well_however_much_it_gives() -> None:
    for count in (8193, 9000, 100_000):
        assert await call(httpx2.Response(200, content=b"x" * count), []) == Result(output="x" * (8192 - len(CUT)) + CUT)
    assert await call(httpx2.Response(200, content=b"x" * 8192), []) == Result(output="x" * 8192)


async def test_no_more_processes_run_side_by_side_than_there_may_be() -> None:
    """The second call waits for the first, within its own time."""
    parameters = {"type": "object", "additionalProperties": False}
    named = {"description": "", "parameters": parameters, "memory_bytes": 256 << 20}
    functions = (("sleeps", 60), ("fails", 0.5))
    odd = tuple(
        PythonTool.model_validate(named | {"name": name, "function": f"tests.pipeline.tools.odd_tools:{name}", "timeout_s": timeout_s})
        for name, timeout_s in functions
    )
    settings = Tools(python=odd, processes=1)
    runner = Runner(settings, Servers(settings), Fetcher())
    sleeps, fails = registered(settings)
    sleeping = asyncio.create_task(runner.run(sleeps, b"{}"))
    await until(lambda: any("pipeline.tools.process" in child.cmdline() for child in psutil.Process().children()))
    assert await runner.run(fails, b"{}") == Result(error="it took longer than 0.5 s")
    sleeping.cancel()
    await asyncio.gather(sleeping, return_exceptions=True)


def test_a_text_is_cut_between_characters() -> None:
    assert clip("é" * 10, 20) == "é" * 10
    assert clip("é" * 10, 15) == "é" * 4 + CUT
    assert clip("half \ud800", 20) == "half ?"
    assert clip("long enough", 3) == ""


def test_what_runs_tools_can_be_sent_to_other_processes() -> None:
    assert isinstance(cloudpickle.loads(cloudpickle.dumps(Loop(TOOLS))), Loop)
