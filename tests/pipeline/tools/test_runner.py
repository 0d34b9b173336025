"""How URLs are called, and what is made of their answers."""

from typing import Any

import httpx2
import msgspec
from pydantic import SecretStr
from ray import cloudpickle

from deployments.core.fetch import Fetcher
from deployments.core.tool_settings import HttpTool, Tools
from pipeline.tools.loop import Loop
from pipeline.tools.mcp import Servers
from pipeline.tools.registry import registered
from pipeline.tools.runner import CUT, Result, Runner, clip
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
    assert (await call(httpx2.Response(200, content=b"x" * 100_000), [])).error == "it is larger than 32768 bytes"
    assert await call(httpx2.Response(200, content=b"x" * 9000), []) == Result(output="x" * (8192 - len(CUT)) + CUT)


def test_a_text_is_cut_between_characters() -> None:
    assert clip("é" * 10, 20) == "é" * 10
    assert clip("é" * 10, 15) == "é" * 4 + CUT
    assert clip("half \ud800", 20) == "half ?"
    assert clip("long enough", 3) == ""


def test_what_runs_tools_can_be_sent_to_other_processes() -> None:
    assert isinstance(cloudpickle.loads(cloudpickle.dumps(Loop(TOOLS))), Loop)
