"""`headrace prompts` and `headrace canary`, in the database of a config file."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from pipeline.cli.app import app
from pipeline.prompts.seeds import SEEDS


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "serve.yaml"
    file.write_text(json.dumps({"applications": [{"args": {"data_dir": str(tmp_path / "data")}}]}))
    told(file, "tenants", "add", "acme")
    return file


def run(config: Path, *words: str, text: str | None = None) -> Result:
    return CliRunner().invoke(app, [*words, "--config", str(config)], input=text)


def told(config: Path, *words: str, text: str | None = None) -> list[dict[str, Any]]:
    done = run(config, *words, "--json", text=text)
    assert done.exit_code == 0, done.output
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_prompts_are_listed_with_the_built_in_ones_added_and_used(config: Path) -> None:
    assert [(one["id"], one["current"]) for one in told(config, "prompts", "list", "acme")] == [(name, True) for name in SEEDS]
    assert told(config, "prompts", "show", "acme", "grounded")[0]["template"] == SEEDS["grounded"]
    (made,) = told(config, "prompts", "add", "acme", "grounded", "-", text="Answer from the sources.")
    assert (made["version"], made["current"]) == ("2", False)
    assert run(config, "prompts", "use", "acme", "grounded", "2").exit_code == 0
    assert told(config, "prompts", "show", "acme", "grounded") == [made | {"current": True}]
    assert told(config, "prompts", "show", "acme", "grounded", "--version", "1")[0]["current"] is False


def test_a_canary_is_started_weighed_promoted_and_stopped(config: Path) -> None:
    (begun,) = told(config, "canary", "start", "retrieval", "6", "--subject", "limit", "--weight", "0.1")
    assert (begun["status"], begun["weight"]) == ("running", 0.1)
    assert told(config, "canary", "weight", begun["id"], "0.5")[0]["weight"] == 0.5
    assert told(config, "canary", "promote", begun["id"])[0]["status"] == "promoted"
    (stopped,) = told(config, "canary", "stop", begun["id"])
    assert told(config, "canary", "list") == told(config, "canary", "show", begun["id"]) == [stopped]
    acts = [json.loads(line)["act"] for line in run(config, "audit", "export").stdout.splitlines()]
    assert acts[1:] == ["canary.started", "canary.weighed", "canary.promoted", "canary.stopped"]


WRONG = [
    ["prompts", "list", "none"],
    ["prompts", "show", "acme", "none"],
    ["prompts", "add", "acme", "a b", "-"],
    ["prompts", "add", "none", "greeting", "-"],
    ["prompts", "use", "acme", "grounded", "9"],
    ["canary", "show", "none"],
    ["canary", "start", "model", "absent"],
    ["canary", "start", "prompt", "2", "--subject", "grounded", "--tenant", "acme"],
    ["canary", "start", "retrieval", "6", "--subject", "candidates"],
    ["canary", "start", "retrieval", "6", "--subject", "limit", "--weight", "2"],
    ["canary", "promote", "can_none"],
]


@pytest.mark.parametrize("words", WRONG, ids=" ".join)
def test_what_can_not_be_done_is_said_in_a_line(config: Path, words: list[str]) -> None:
    done = run(config, *words, text="Hello")
    assert (done.exit_code, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
