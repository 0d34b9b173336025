"""The settings of tools: what is refused before anything starts."""

from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from deployments.core.tool_settings import HttpTool, McpServer, PythonTool, Tools
from deployments.core.tools import offered

CLOSED = {"type": "object", "additionalProperties": False}
HTTP: dict[str, Any] = {"name": "a", "description": "", "parameters": CLOSED, "url": "https://tools.test/"}


@pytest.mark.parametrize(
    "fields",
    [
        {"parameters": {"type": "object"}},
        {"parameters": {"type": "array"}},
        {"parameters": CLOSED | {"properties": {"a": {"type": "nonsense"}}}},
        {"parameters": CLOSED | {"properties": {"a": {"$ref": "http://elsewhere.test/"}}}},
        {"name": "a b"},
        {"scopes": ()},
        {"scopes": ("admin",)},
        {"url": "file:///etc/passwd"},
        {"url": "https://user:pass@tools.test/"},
        {"effect": "nothing"},
        {"timeout_s": 0},
    ],
)
def test_a_tool_that_is_not_sound_is_refused(fields: dict[str, Any]) -> None:
    HttpTool.model_validate(HTTP)
    with pytest.raises(ValidationError):
        HttpTool.model_validate(HTTP | fields)


def test_a_function_is_named_by_its_module() -> None:
    named = {"name": "a", "description": "", "parameters": CLOSED}
    assert PythonTool.model_validate(named | {"function": "mine.tools:add"}).effect == "egress"
    for wrong in ("mine.tools", "os:system('x')", "../x:y", ":y"):
        with pytest.raises(ValidationError):
            PythonTool.model_validate(named | {"function": wrong})


def test_names_are_told_apart() -> None:
    one, server = HttpTool.model_validate(HTTP), McpServer(label="wiki", url="https://wiki.test/mcp")
    assert Tools(http=(one,), mcp=(server,)).labels == {"headrace", "wiki"}
    for wrong in ({"http": (one, one)}, {"mcp": (server, server)}, {"mcp": (McpServer(label="headrace", url="https://w.test/"),)}):
        with pytest.raises(ValidationError):
            Tools.model_validate(wrong)
    with pytest.raises(ValidationError):
        Tools(http=(one.model_copy(update={"name": "wiki__find"}),), mcp=(server,))
    assert offered("wiki", "find") == "wiki__find"


def test_secrets_are_named_and_go_over_tls() -> None:
    secrets = {"key": SecretStr("canary")}
    tool = HttpTool.model_validate(HTTP | {"secret_headers": {"authorization": "key"}})
    assert Tools(http=(tool,), secrets=secrets).headers(tool) == {"authorization": "canary"}
    assert "canary" not in repr(Tools(http=(tool,), secrets=secrets))
    with pytest.raises(ValidationError):
        Tools(http=(tool,))
    plain = tool.model_copy(update={"url": "http://tools.test/"})
    with pytest.raises(ValidationError):
        Tools(http=(plain,), secrets=secrets)
    Tools(http=(plain,), secrets=secrets, hosts=("tools.test",))
