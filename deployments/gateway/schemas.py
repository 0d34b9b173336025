"""The JSON schemas of a caller's functions: passed on as they came, within bounds."""

from typing import Any

from deployments.core.errors import InvalidRequest
from deployments.gateway.items import encoded

MAX_TOOLS = 128
MAX_SCHEMA_BYTES = 64 << 10
MAX_PATTERN_CHARS = 256
"""A backend that compiles a schema to a grammar pays for a long expression at every token."""


def schema(parameters: dict[str, Any] | None, param: str) -> bytes | None:
    """A schema as JSON; raises InvalidRequest where it is too large or too deep, or has a long pattern or a reference to elsewhere."""
    if parameters is None:
        return None
    made = encoded(parameters, param)
    if len(made) > MAX_SCHEMA_BYTES:
        raise InvalidRequest(f"a schema has at most {MAX_SCHEMA_BYTES} bytes", param=param, code="invalid_value")
    left: list[Any] = [parameters]
    while left:
        node = left.pop()
        if isinstance(node, dict):
            _check(node, param)
            left += node.values()
        elif isinstance(node, list):
            left += node
    return made


def _check(node: dict[str, Any], param: str) -> None:
    patterns = [node.get("pattern"), *(node["patternProperties"] if isinstance(node.get("patternProperties"), dict) else ())]
    if any(isinstance(pattern, str) and len(pattern) > MAX_PATTERN_CHARS for pattern in patterns):
        raise InvalidRequest(f"a pattern has at most {MAX_PATTERN_CHARS} characters", param=param, code="invalid_value")
    if isinstance(target := node.get("$ref"), str) and not target.startswith("#"):
        raise InvalidRequest("a schema refers to nothing but itself", param=param, code="invalid_value")
