"""The line of the log that a turn leaves, in the file where an operator looks for it."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import Stack

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


def turns(logs: Path) -> list[dict[str, Any]]:
    """The lines of turns that the gateways have written."""
    lines = [line for path in logs.glob("replica_headrace_gateway_*.log") for line in path.read_text().splitlines()]
    return [line for line in map(json.loads, lines) if "response_id" in line]


def test_a_turn_is_logged_at_once_with_its_ids_and_stages_and_none_of_its_words(stack: Stack) -> None:
    logs = stack.data_dir / "run" / "ray" / "session_latest" / "logs" / "serve"
    with stack.http() as http:
        body = {"model": "headrace-direct", "input": "Who drinks the zirconium of the heron?"}
        reply = http.post("/v1/responses", json=body).raise_for_status().json()
    stack.until(lambda: [line for line in turns(logs) if line["response_id"] == reply["id"]], "the line", 5)
    (line,) = [line for line in turns(logs) if line["response_id"] == reply["id"]]
    assert (line["tenant"], line["model"], line["outcome"]) == ("demo", "headrace-direct", "ok")
    assert 0 < line["first_ms"] < line["ms"]
    assert {"queue", "first_token", "relay"} <= {stage["stage"] for stage in line["stages"]}
    said = reply["output"][0]["content"][0]["text"].split()[0]
    written = "".join(path.read_text() for path in logs.glob("replica_headrace_*.log"))
    assert "zirconium" not in written
    assert f"{said} " not in written
